"""How the blueprints answer: local redirects, other sites, errors, the cookie."""

from http.cookies import SimpleCookie
from urllib.parse import urljoin, urlsplit

import flask
import pytest
from hypothesis import given
from hypothesis import strategies as st

from issuer.origins import Origins
from issuer.web import responses

OWN = "https://portero.example"


@pytest.fixture(scope="module")
def app() -> flask.Flask:
    return flask.Flask("issuer.web")


@pytest.mark.parametrize(
    "path", ["/", "/admin/", "/v1/models", "/a-b_c.d~e", "/x?y=1&z=%20", "/" + "a" * 512]
)
def test_a_path_of_this_host_is_kept(path: str) -> None:
    assert responses.local_path(path) == path


NOT_LOCAL = [
    None,
    "",
    " ",
    "x",
    "admin",
    "//evil.example",
    "///evil.example",
    "////evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "\\/evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "/\r\n/evil.example",
    "\t//evil.example",
    " //evil.example",
    "/ /evil.example",
    "/\x00/evil.example",
    "/.//evil.example",
    "/a//evil.example",
    "/..//evil.example",
    "/login?next=//evil.example",
    "http://evil.example",
    "https://evil.example",
    "HTTPS://evil.example",
    "https:evil.example",
    "https:/evil.example",
    "https:///evil.example",
    "http:\\\\evil.example",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "java\nscript:alert(1)",
    "data:text/html,x",
    "vbscript:x",
    "file:///etc/passwd",
    "ftp://evil.example",
    "//evil.example/%2f..",
    "//portero.example@evil.example",
    "@evil.example",
    "/@evil.example",
    ".evil.example",
    "?next=//evil.example",
    "#@evil.example",
    "/#//evil.example",
    "/a#b",
    "/;@evil.example",
    "/x:evil",
    "/\u2028/evil.example",
    "\u3000//evil.example",
    "/\uff0fevil.example",
    "/\u2215/evil.example",
    "//evil\u3002example",
    "/\u0430",
    "/x\r\nSet-Cookie: a=b",
    "/x\nLocation: //evil.example",
    "/x\n",
    '/"><script>',
    "/<script>",
    "/'",
    "/{{7*7}}",
    "/" + "a" * 513,
]


@pytest.mark.parametrize("wanted", NOT_LOCAL)
def test_i6_anything_else_leads_to_the_start(wanted: str | None) -> None:
    assert responses.local_path(wanted) == "/"


@given(st.text() | st.text(alphabet="/\\.:@?#%2f5c evil\t\r\n", max_size=20))
def test_i6_whatever_is_wanted_no_browser_leaves_this_host(wanted: str) -> None:
    goal = responses.local_path(wanted)
    as_browsers_read_it = goal.replace("\\", "/")
    there = urlsplit(urljoin(OWN + "/login", as_browsers_read_it))
    assert f"{there.scheme}://{there.netloc}" == OWN


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, False),
        ({"Origin": OWN}, False),
        ({"Origin": "http://portero.example"}, True),
        ({"Origin": "https://evil.example"}, True),
        ({"Sec-Fetch-Site": "same-site"}, True),
        ({"Sec-Fetch-Site": "same-origin"}, False),
    ],
    ids=str,
)
def test_i5_a_request_of_another_site_is_recognised(
    app: flask.Flask, headers: dict[str, str], expected: bool
) -> None:
    """The long list is in `test_origins.py`; here, that all that it asks for is looked up."""
    told = {**headers, "X-Forwarded-Proto": "https"}
    with app.test_request_context("/login", base_url=OWN, method="POST", headers=told):
        assert responses.from_another_site() is expected
        assert responses.from_unnamed_site() is expected


@pytest.mark.parametrize("own", ["https://portero.example", "https://other.example"])
def test_a_site_that_is_named_is_another_one_and_no_unnamed_one(own: str) -> None:
    app = flask.Flask("issuer.web")
    app.config[responses.ORIGINS] = Origins(own, frozenset(["https://chat.example"]))
    headers = {"Origin": "https://chat.example", "Sec-Fetch-Site": "cross-site"}
    with app.test_request_context("/login", base_url=OWN, method="POST", headers=headers):
        assert responses.from_another_site() is True
        assert responses.from_unnamed_site() is False
    with app.test_request_context("/login", base_url=OWN, headers={"Origin": OWN}):
        assert responses.from_unnamed_site() is (own != OWN)


@pytest.mark.parametrize(
    ("accept", "page", "json"),
    [
        (None, False, False),
        ("*/*", False, False),
        ("application/json", False, True),
        ("text/html", True, False),
        ("text/html,application/xhtml+xml,application/json;q=0.9,*/*;q=0.8", True, False),
    ],
)
def test_a_browser_gets_pages_and_a_program_json(
    app: flask.Flask, accept: str | None, page: bool, json: bool
) -> None:
    headers = {} if accept is None else {"Accept": accept}
    with app.test_request_context("/", headers=headers):
        assert (responses.wants_page(), responses.wants_json()) == (page, json)


@pytest.mark.parametrize(
    ("code", "status", "header"),
    [
        ("invalid_api_key", 401, ("WWW-Authenticate", 'Bearer realm="portero"')),
        ("not_ready", 503, ("Retry-After", "1")),
        ("capacity", 503, ("Retry-After", "1")),
        ("rate_limit_exceeded", 429, ("Retry-After", "1")),
    ],
)
@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_an_error_bears_its_header_in_both_forms(
    app: flask.Flask, code: str, status: int, header: tuple[str, str], accept: str
) -> None:
    with app.test_request_context("/", headers={"Accept": accept}):
        answer = responses.error(code)
    assert answer.status_code == status
    assert answer.headers[header[0]] == header[1]
    assert answer.headers["X-Portero-Code"] == code
    assert answer.mimetype == accept


def test_a_challenge_of_the_callers_own_stays(app: flask.Flask) -> None:
    with app.test_request_context("/"):
        answer = responses.error("invalid_api_key", headers={"WWW-Authenticate": "Basic"})
    assert answer.headers.getlist("WWW-Authenticate") == ["Basic"]


@pytest.mark.parametrize(("token", "age"), [("a.b.c", 900), ("", 0)])
@pytest.mark.parametrize("secure", [True, False])
def test_i4_the_cookie_has_one_shape_set_and_deleted(token: str, age: int, secure: bool) -> None:
    answer = flask.Response()
    responses.set_cookie(answer, token, age, secure)
    (header,) = answer.headers.getlist("Set-Cookie")
    cookie = SimpleCookie(header)["auth_token"]
    assert cookie.value == token
    assert cookie["max-age"] == str(age)
    assert cookie["path"] == "/"
    assert cookie["samesite"] == "Lax"
    assert cookie["httponly"] is True
    assert bool(cookie["secure"]) is secure
    assert not cookie["domain"]
