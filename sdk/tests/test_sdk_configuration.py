"""Where a client's values come from, and what is said of those that are missing or wrong."""

import ssl
import sys
import warnings
from pathlib import Path

import httpx2
import pytest
from fake_portero import SECRET, USERNAME
from hypothesis import example, given, settings
from hypothesis import strategies as st

from portero import Configuration, ConfigurationError, PlainHTTPWarning
from portero.configuration import origin

URL = "http://127.0.0.1:8080"
GIVEN = {"PORTERO_URL": URL, "PORTERO_USERNAME": USERNAME, "PORTERO_SECRET": SECRET}
#: What older clients read.
OLDER = {"LLM_BASE_URL": f"{URL}/v1", "LLM_USERNAME": USERNAME, "LLM_PASSWORD": SECRET}


@pytest.mark.parametrize("environ", [GIVEN, OLDER])
def test_variables_are_read_when_asked_for(environ: dict[str, str]) -> None:
    read = Configuration.read(environ=environ)
    assert (read.url, read.username, read.secret) == (URL, USERNAME, SECRET)


def test_arguments_come_before_variables_and_ours_before_older_ones() -> None:
    environ = {**OLDER, "PORTERO_URL": "https://door.lan"}
    read = Configuration.read(username="AGNFXYZ456", environ=environ)
    assert (read.url, read.username) == ("https://door.lan", "AGNFXYZ456")


def test_a_secret_comes_from_a_file_without_its_last_line_break(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    environ = {**GIVEN, "PORTERO_SECRET": "", "PORTERO_SECRET_FILE": str(path)}
    assert Configuration.read(environ=environ).secret == SECRET


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_secret_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "secret"
    if content:
        path.write_bytes(content)
    environ = {"PORTERO_SECRET_FILE": str(path)}
    with pytest.raises(ConfigurationError, match=rf"PORTERO_SECRET_FILE names {path}"):
        Configuration.read(URL, USERNAME, environ=environ)


def test_an_api_key_is_enough() -> None:
    read = Configuration.read(environ={"PORTERO_URL": URL, "PORTERO_API_KEY": "a-key"})
    assert (read.api_key, read.secret) == ("a-key", "")


def test_who_gives_a_username_and_secret_means_them_and_not_a_key_of_the_environment() -> None:
    environ = {**GIVEN, "PORTERO_API_KEY": "a-key"}
    assert Configuration.read(environ=environ).api_key == "a-key"
    assert Configuration.read(username=USERNAME, environ=environ).api_key == ""
    with pytest.raises(ConfigurationError, match="not both"):
        Configuration.read(URL, USERNAME, SECRET, api_key="a-key", environ={})


def test_all_that_is_missing_is_named_at_once_as_argument_and_variable() -> None:
    with pytest.raises(ConfigurationError) as raised:
        Configuration.read(environ={})
    for words in ("url=, or set PORTERO_URL", "username=", "PORTERO_SECRET or PORTERO_SECRET_FILE"):
        assert words in str(raised.value)


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080"),
        ("http://127.0.0.1:8080/v1/", "http://127.0.0.1:8080"),
        ("HTTPS://Door.lan/V1x/v1/", "https://door.lan/V1x"),
        ("http://[::1]:8080/v1", "http://[::1]:8080"),
    ],
)
def test_a_url_is_the_same_in_all_its_forms(given: str, normal: str) -> None:
    assert Configuration.read(given, USERNAME, SECRET).url == normal


@pytest.mark.parametrize(
    "url",
    [
        "door.lan",
        "ftp://door.lan",
        "http://",
        "http://door.lan:x",
        "http://door.lan:0",
        "http://u:canary@door.lan",
        "http://door.lan/?x",
        "http://door.lan/#x",
        "http://[::1",
    ],
)
def test_a_url_that_is_none_is_told_and_not_echoed(url: str) -> None:
    with pytest.raises(ConfigurationError, match="url ") as raised:
        Configuration.read(url, USERNAME, SECRET)
    assert "canary" not in str(raised.value)


def test_plain_http_to_another_host_warns_once() -> None:
    with pytest.warns(PlainHTTPWarning, match=r"http://warned\.lan is plain http"):
        Configuration.read("http://warned.lan/v1", USERNAME, SECRET)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for url in ("http://warned.lan", "https://quiet.lan", "http://x.localhost", "http://[::1]"):
            Configuration.read(url, USERNAME, SECRET)


def test_a_bundle_of_certificates_is_what_verifies(tmp_path: Path) -> None:
    bundle = ssl.get_default_verify_paths().cafile or tmp_path / "absent"
    if Path(bundle).exists():
        read = Configuration.read(URL, USERNAME, SECRET, ca_bundle=str(bundle))
        context = read.ssl_context()
        assert isinstance(context, ssl.SSLContext)
        assert context.verify_mode is ssl.CERT_REQUIRED
    usual = Configuration.read(URL, USERNAME, SECRET).ssl_context()
    assert (usual.verify_mode, usual.check_hostname) == (ssl.CERT_REQUIRED, True)
    with pytest.raises(ConfigurationError, match="PORTERO_CA_BUNDLE"):
        Configuration.read(URL, USERNAME, SECRET, ca_bundle="/absent").ssl_context()


def test_nothing_of_the_environment_is_read_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTERO_URL", "no url")
    ours = [name for name in sys.modules if name.partition(".")[0] == "portero"]
    for name in ours:
        monkeypatch.delitem(sys.modules, name)
    __import__("portero")


def test_no_repr_shows_a_secret_or_key() -> None:
    read = Configuration.read(URL, USERNAME, SECRET)
    keyed = Configuration.read(URL, api_key="canary-key")
    assert "canary" not in repr(read) + repr(keyed) + repr(read.secret)


HOSTS = st.one_of(
    st.sampled_from(
        ["door.lan", "Door.LAN", "é.lan", "ﬀ.lan", "[::1]", "127.0.0.1", "a_b", "a%41", "a b"]
    ),
    st.text(max_size=8),
)
ODD_URLS = st.one_of(
    st.text(max_size=12),
    st.builds(
        "{}://{}{}{}".format,
        st.sampled_from(["http", "https", "HTTP", "ftp"]),
        HOSTS,
        st.sampled_from(["", ":80", ":443", ":8443", ":0", ":99999", ":x", ":٣"]),
        st.text(max_size=6).map("/{}".format) | st.sampled_from(["", "/", "/v1", "/a/v1/"]),
    ),
)


@pytest.mark.filterwarnings("ignore::portero.PlainHTTPWarning")
@settings(max_examples=300, deadline=None)
@given(url=ODD_URLS)
@example(url="http://a\x00b")
@example(url="http://a\u2028b")
@example(url="https://é.lan")
@example(url="HTTP://door.lan:80/")
@example(url="http://<")
@example(url="https://door.lan:443/v1")
@example(url="http://" + "a" * 70_000)
def test_any_url_is_refused_or_requests_go_to_its_very_origin(url: str) -> None:
    try:
        read = Configuration.read(url, api_key="a-key", environ={})
    except ConfigurationError:
        return
    sent = httpx2.Request("GET", f"{read.url}/v1/models").url
    assert origin(str(sent)) == read.origin
    assert Configuration.read(read.url, api_key="a-key", environ={}) == read


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"api_key": "a\nkey"}, "api_key (PORTERO_API_KEY)"),
        ({"api_key": "clé"}, "api_key (PORTERO_API_KEY)"),
        ({"username": USERNAME, "secret": "\udcff"}, "secret (PORTERO_SECRET)"),
        ({"username": "\udcff", "secret": SECRET}, "username (PORTERO_USERNAME)"),
    ],
)
def test_what_no_request_could_carry_is_told_and_not_shown(
    values: dict[str, str], named: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Configuration.read(URL, **values, environ={})  # type: ignore[arg-type]
    assert named in str(raised.value)
    assert not any(value in str(raised.value) for value in values.values() if value != USERNAME)
