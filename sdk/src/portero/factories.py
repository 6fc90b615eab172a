"""Ready clients of the libraries that people use already, which renew by themselves.

Each library is an extra of this package and imported when asked for. The source signs each request
in the library's own HTTP client, so a token goes to the gateway alone and a refused one is mended
below the library's sight; the key that the library insists on is a word that means nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import httpx2

from portero.errors import ConfigurationError
from portero.token_source import TokenSource

if TYPE_CHECKING:
    import anthropic as anthropic_library
    import langchain_openai
    import ollama as ollama_library
    import openai as openai_library

#: A person who sees this in a library's log or object learns where the key is.
HELD = "held-by-portero"


def openai(source: TokenSource | None = None, **options: Any) -> "openai_library.OpenAI":
    """`openai.OpenAI` for this gateway; `options` are its own. Without a source, one is made of the
    environment. A login that fails raises its `LoginError` as it is.

    >>> client = portero.openai()
    >>> client.models.list().data[0].id == MODEL
    True
    """
    library, source = _library("openai"), _or_new(source)
    http = _http(library.DefaultHttpxClient, source)
    made: openai_library.OpenAI = _made(
        library.OpenAI, options, base_url=_v1(source), api_key=source, http_client=http
    )
    return made


def async_openai(source: TokenSource | None = None, **options: Any) -> "openai_library.AsyncOpenAI":
    """`openai.AsyncOpenAI`, likewise.

    >>> client = portero.async_openai()
    """
    library, source = _library("openai"), _or_new(source)
    http = _http(library.DefaultAsyncHttpxClient, source)
    made: openai_library.AsyncOpenAI = _made(
        library.AsyncOpenAI, options, base_url=_v1(source), api_key=source.acall, http_client=http
    )
    return made


def anthropic(source: TokenSource | None = None, **options: Any) -> "anthropic_library.Anthropic":
    """`anthropic.Anthropic` for this gateway, likewise.

    >>> client = portero.anthropic()
    """
    library, source = _library("anthropic"), _or_new(source)
    http = _http(library.DefaultHttpxClient, source)
    made: anthropic_library.Anthropic = _made(
        library.Anthropic, options, base_url=source.url, auth_token=HELD, http_client=http
    )
    return made


def async_anthropic(
    source: TokenSource | None = None, **options: Any
) -> "anthropic_library.AsyncAnthropic":
    """`anthropic.AsyncAnthropic`, likewise.

    >>> client = portero.async_anthropic()
    """
    library, source = _library("anthropic"), _or_new(source)
    http = _http(library.DefaultAsyncHttpxClient, source)
    made: anthropic_library.AsyncAnthropic = _made(
        library.AsyncAnthropic, options, base_url=source.url, auth_token=HELD, http_client=http
    )
    return made


def langchain_chat(
    model: str, source: TokenSource | None = None, **options: Any
) -> "langchain_openai.ChatOpenAI":
    """LangChain's `ChatOpenAI` for this gateway, sync and async.

    >>> chat = portero.langchain_chat(MODEL)
    """
    made: langchain_openai.ChatOpenAI = _langchain("ChatOpenAI", model, source, options)
    return made


def langchain_embeddings(
    model: str, source: TokenSource | None = None, **options: Any
) -> "langchain_openai.OpenAIEmbeddings":
    """LangChain's `OpenAIEmbeddings` for this gateway. Texts are sent as they are, not as numbers
    of OpenAI's own tokens.

    >>> embeddings = portero.langchain_embeddings(MODEL)
    """
    options = {"check_embedding_ctx_length": False, **options}
    made: langchain_openai.OpenAIEmbeddings = _langchain("OpenAIEmbeddings", model, source, options)
    return made


def ollama(source: TokenSource | None = None, **options: Any) -> "ollama_library.Client":
    """`ollama.Client` for this gateway, likewise; for LLM servers that speak Ollama's API.

    >>> client = portero.ollama()
    """
    made: ollama_library.Client = _ollama("Client", source, options)
    return made


def async_ollama(source: TokenSource | None = None, **options: Any) -> "ollama_library.AsyncClient":
    """`ollama.AsyncClient`, likewise.

    >>> client = portero.async_ollama()
    """
    made: ollama_library.AsyncClient = _ollama("AsyncClient", source, options)
    return made


def _langchain(name: str, model: str, source: TokenSource | None, options: dict[str, Any]) -> Any:
    source, openai_library = _or_new(source), _library("openai")
    return _made(
        getattr(_library("langchain_openai", "langchain"), name),
        options,
        model=model,
        base_url=_v1(source),
        api_key=source,
        http_client=_http(openai_library.DefaultHttpxClient, source),
        http_async_client=_http(openai_library.DefaultAsyncHttpxClient, source),
    )


def _ollama(name: str, source: TokenSource | None, options: dict[str, Any]) -> Any:
    source = _or_new(source)
    # Its own default follows redirects; the gateway sends none.
    verify = {"verify": source.configuration.ssl_context(), "follow_redirects": False}
    return getattr(_library("ollama"), name)(
        host=source.url, auth=source.httpx_auth, **{**verify, **options}
    )


def _library(name: str, extra: str = "") -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise ConfigurationError(
            f"{name} is not installed: pip install 'portero[{extra or name}]'"
        ) from None


def _or_new(source: TokenSource | None) -> TokenSource:
    return source if source is not None else TokenSource()


def _v1(source: TokenSource) -> str:
    return f"{source.url}/v1"


def _http(kind: Any, source: TokenSource) -> Any:
    """The library's own HTTP client, which is of one generation of httpx or the other."""
    is_second = issubclass(kind, (httpx2.Client, httpx2.AsyncClient))
    auth = source.auth if is_second else source.httpx_auth
    return kind(auth=auth, verify=source.configuration.ssl_context(), follow_redirects=False)


def _made(kind: Any, options: dict[str, Any], **ours: Any) -> Any:
    return kind(**{**ours, **options})
