"""The client of Portero: logs in, holds the token, renews it, and stays out of the way."""

import logging as _logging

from portero.calls import Answer, Completion, Document, Embeddings, Keys, Limit, Models, NewKey
from portero.client import AsyncPortero, Portero
from portero.configuration import Configuration, PlainHTTPWarning
from portero.errors import (
    APIError,
    ConfigurationError,
    InvalidRequest,
    LoginError,
    LoginUnavailable,
    ModelNotFound,
    NotFound,
    NotReady,
    PermissionDenied,
    PorteroError,
    QuotaSpent,
    RateLimited,
    StreamCut,
    TokenExpired,
    TokenRefused,
    TooManyTokens,
    TransportError,
    UpstreamTimeout,
    UpstreamUnavailable,
    WrongCredentials,
    WrongLogin,
)
from portero.events import Event
from portero.factories import (
    anthropic,
    async_anthropic,
    async_ollama,
    async_openai,
    langchain_chat,
    langchain_embeddings,
    ollama,
    openai,
)
from portero.streams import AsyncChatStream, ChatStream
from portero.token_source import Current, TokenSource

__version__ = "0.1.0"

__all__ = [
    "APIError",
    "Answer",
    "AsyncChatStream",
    "AsyncPortero",
    "ChatStream",
    "Completion",
    "Configuration",
    "ConfigurationError",
    "Current",
    "Document",
    "Embeddings",
    "Event",
    "InvalidRequest",
    "Keys",
    "Limit",
    "LoginError",
    "LoginUnavailable",
    "ModelNotFound",
    "Models",
    "NewKey",
    "NotFound",
    "NotReady",
    "PermissionDenied",
    "PlainHTTPWarning",
    "Portero",
    "PorteroError",
    "QuotaSpent",
    "RateLimited",
    "StreamCut",
    "TokenExpired",
    "TokenRefused",
    "TokenSource",
    "TooManyTokens",
    "TransportError",
    "UpstreamTimeout",
    "UpstreamUnavailable",
    "WrongCredentials",
    "WrongLogin",
    "anthropic",
    "async_anthropic",
    "async_ollama",
    "async_openai",
    "langchain_chat",
    "langchain_embeddings",
    "ollama",
    "openai",
]

_logging.getLogger("portero").addHandler(_logging.NullHandler())
