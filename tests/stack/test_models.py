"""Which models a caller may use, and every way to name one that should fool the gateway: threats
B1-B13, and the bypasses published of other gateways.
"""

import contextlib
import gzip
import http.client
import json
import posixpath
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import openai
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.deployment import Caller, Deployment, deployed
from tests.support.policies import write_policy
from tests.support.upstream import CHAT_ANSWER, Upstream
from tests.support.waiting import wait_for

#: What AGNF users may use; one user has a list of its own.
ALLOWED = ["tiny", "qwen*", "big:8b-cloud"]
OWN = {"AGNRTEST02": {"models": ["other"]}}
MIB = 1024 * 1024


def limit(content: dict[str, Any]) -> None:
    content["roles"]["agent_fast"]["models"] = ALLOWED
    content["roles"]["admin"]["models"] = ["tiny"]
    content["roles"]["monitoring"]["models"] = []
    content["users"] = OWN


@pytest.fixture(scope="module")
def limited(
    local_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    roles = write_policy(tmp_path_factory.mktemp("roles") / "policy.yaml", limit)
    with deployed(local_upstream.url, POLICY_FILE=str(roles)) as running:
        yield running


@pytest.fixture(scope="module")
def token(limited: Deployment) -> str:
    return Caller(limited).token("AGNFTEST01")


@pytest.fixture
def post(limited: Deployment, token: str) -> Any:
    """Send bytes as the caller whose models are limited."""

    def send(
        body: bytes | str | dict[str, Any] = b"",
        path: str = "/v1/chat/completions",
        **headers: str,
    ) -> requests.Response:
        data = json.dumps(body) if isinstance(body, dict) else body
        sent = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        sent.update({name.replace("_", "-"): value for name, value in headers.items()})
        return requests.post(
            limited.gateway + path,
            data=data.encode() if isinstance(data, str) else data,
            headers={name: value for name, value in sent.items() if value},
            timeout=30,
        )

    return send


def code_of(answer: requests.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    return answer.status_code, error if isinstance(error, str) else answer.headers["x-portero-code"]


@pytest.mark.parametrize(
    "name",
    ["tiny", "qwen", "qwen2.5:7b", "TINY", "tiny:latest", "library/tiny", "big:8b-cloud",
     "registry.ollama.ai/library/tiny:latest"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions", "/api/chat"])
def test_b5_an_allowed_model_arrives_byte_for_byte(
    post: Any, seen: Upstream, name: str, path: str
) -> None:
    body = f'{{ "messages": [], "model" : "{name}", "x": "\\u00e9\\n" }}\n'
    assert post(body, path).status_code == 200
    assert seen.seen[-1].body == body.encode()


@pytest.mark.parametrize(
    "name",
    ["other", "tiny2", "tin", " tiny", "tiny ", "qwe", "tiny:7b", "qwen3:480b-cloud", "qwen:cloud",
     "qwen@sha256:" + "a" * 64, "tiny@sha256:" + "a" * 64, "big:8b", "evil/tiny", "*", "qwen*x ",
     "hf.co/library/tiny"],
)  # fmt: skip
def test_b5_a_forbidden_model_is_not_found_and_nothing_arrives(
    post: Any, seen: Upstream, name: str
) -> None:
    answer = post({"model": name})
    assert code_of(answer) == (404, "model_not_found")
    assert answer.json()["error"]["param"] == "model"
    assert f"`{name}`" not in answer.text
    assert seen.seen == []


def test_an_unknown_model_and_a_forbidden_one_get_the_same_answer(
    post: Any, seen: Upstream
) -> None:
    seen.answers["/v1/chat/completions"] = 404
    unknown, forbidden = post({"model": "tiny"}), post({"model": "other"})
    assert "CANARY" not in unknown.text
    assert unknown.status_code == forbidden.status_code == 404
    assert unknown.content == forbidden.content
    names = set(unknown.headers) ^ set(forbidden.headers)
    assert names == set()


def test_a_users_own_models_take_the_place_of_the_roles(
    limited: Deployment, seen: Upstream
) -> None:
    caller = Caller(limited)
    first, second = caller.token("AGNRTEST01"), caller.token("AGNRTEST02")
    assert caller.call(first, body={"model": "anything"}).status_code == 200
    assert caller.call(second, body={"model": "other"}).status_code == 200
    assert caller.call(second, body={"model": "tiny"}).status_code == 404
    assert len(seen.seen) == 2


JSON_BYPASSES = {
    "b1 a name twice": '{"model":"tiny","model":"other"}',
    "b1 a name twice, the other way": '{"model":"other","model":"tiny"}',
    "b1 another name twice": '{"model":"tiny","messages":[],"messages":[1]}',
    "b2 another case beside it": '{"model":"tiny","MODEL":"other"}',
    "b2 another case alone": '{"Model":"tiny"}',
    "b2 a long s": '{"model":"tiny","\u017ftream":true}',
    "b2 an ollama name in another case": '{"model":"tiny","NAME":"other"}',
    "b3 an escaped name beside it": '{"model":"tiny","mod\\u0065l":"other"}',
    "b3 a lone surrogate in a name": '{"model":"tiny","\\ud800":1}',
    "b4 null": '{"model":null}',
    "b4 an empty text": '{"model":""}',
    "b4 a list": '{"model":["tiny"]}',
    "b4 an object": '{"model":{"tiny":1}}',
    "b4 a number": '{"model":1}',
    "b4 none": '{"messages":[]}',
    "b4 an empty object": "{}",
    "b5 ollama's name where only model counts": '{"name":"tiny"}',
    "b6 an adapter": '{"model":"tiny","lora":[{"id":0,"scale":1}]}',
    "b7 two documents": '{"model":"tiny"}{"model":"other"}',
    "b7 bytes behind": '{"model":"tiny"} x',
    "b7 a byte order mark": '\ufeff{"model":"tiny"}',
    "b11 a raw newline": '{"model":"tiny","a":"\n"}',
    "b11 a hexadecimal number": '{"model":"tiny","a":0x10}',
    "b11 NaN": '{"model":"tiny","a":NaN}',
    "b11 a comma too many": '{"model":"tiny",}',
    "b11 no object": '["tiny"]',
    "b11 no JSON": "model=tiny",
    "b12 nesting without an end": '{"model":"tiny","a":' + "[" * 100_000 + "]" * 100_000 + "}",
    "b12 nesting of 1,001": '{"model":"tiny","a":' + "[" * 1001 + "]" * 1001 + "}",
    "b12 100,000 names": '{"model":"tiny",' + ",".join(f'"k{i}":1' for i in range(100_000)) + "}",
}


@pytest.mark.parametrize("what", JSON_BYPASSES)
def test_a_body_that_could_be_read_in_two_ways_is_refused(
    post: Any, seen: Upstream, what: str
) -> None:
    answer = post(JSON_BYPASSES[what])
    status, code = code_of(answer)
    assert status == 400
    assert code in ("invalid_json", "invalid_request")
    assert seen.seen == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_b7_another_encoding_is_refused(post: Any, seen: Upstream, encoding: str) -> None:
    answer = post('{"model":"tiny","a":"é"}'.encode(encoding))
    assert code_of(answer) == (400, "invalid_json")
    assert seen.seen == []


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity", "x"])
def test_b8_a_compressed_body_is_refused(post: Any, seen: Upstream, encoding: str) -> None:
    answer = post(gzip.compress(b'{"model":"other"}'), Content_Encoding=encoding)
    assert code_of(answer) == (415, "unsupported_media_type")
    assert seen.seen == []


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
     "application/json; charset=utf-16", "application/json, text/plain", "text/json"],
)  # fmt: skip
def test_b9_a_body_of_another_kind_is_refused(post: Any, seen: Upstream, kind: str) -> None:
    answer = post('{"model":"tiny"}', Content_Type=kind)
    assert code_of(answer) == (415, "unsupported_media_type")
    assert seen.seen == []


def test_b9_a_charset_that_is_json_own_is_taken(post: Any) -> None:
    answer = post('{"model":"tiny"}', Content_Type="application/json; charset=utf-8")
    assert answer.status_code == 200


@pytest.mark.parametrize("name", ["Content-Type", "Content-Encoding"])
@pytest.mark.parametrize("values", [("good", "bad"), ("bad", "good"), ("good", "good")])
def test_b8_b9_of_a_header_that_is_told_twice_only_what_was_judged_is_sent(
    limited: Deployment, token: str, seen: Upstream, name: str, values: tuple[str, str]
) -> None:
    good = {"Content-Type": "application/json", "Content-Encoding": "identity"}
    bad = {"Content-Type": "multipart/form-data; boundary=x", "Content-Encoding": "gzip"}
    body = b'{"model":"tiny"}'
    twice = [f"{name}: {good[name] if value == 'good' else bad[name]}" for value in values]
    once = [f"{other}: {value}" for other, value in good.items() if other != name]
    head = "\r\n".join(
        ("POST /v1/chat/completions HTTP/1.1", "Host: x", f"Authorization: Bearer {token}",
         f"Content-Length: {len(body)}", "Connection: close", *twice, *once, "", "")
    )  # fmt: skip
    answer = Caller(limited).raw(head.encode() + body)
    if answer.startswith(b"HTTP/1.1 200 "):
        assert seen.seen[-1].values(name.lower()) == [good[name]]
    else:  # nginx 1.23 and newer joins them, or refuses them itself
        assert answer.split()[1] in (b"400", b"415")
        assert seen.seen == []


def padded(size: int, model: str = "tiny") -> bytes:
    head, tail = b'{"pad":"', b'","model":"%s"}' % model.encode()
    return head + b"x" * (size - len(head) - len(tail)) + tail


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [MIB - 1, MIB, MIB + 1, 20 * MIB])
def test_b10_a_large_body_is_judged_wherever_nginx_keeps_it(
    post: Any, seen: Upstream, size: int, chunked: bool
) -> None:
    for model, status in (("tiny", 200), ("other", 404)):
        seen.seen.clear()
        body = padded(size, model)
        answer = post(iter([body]) if chunked else body)
        assert answer.status_code == status
        assert [one.body == body for one in seen.seen] == [True] * (status == 200)


def test_b10_a_body_of_64_mib_passes_and_one_byte_more_is_refused_unread(
    limited: Deployment, post: Any, token: str, seen: Upstream
) -> None:
    assert post(padded(64 * MIB)).status_code == 200
    assert len(seen.seen[-1].body) == 64 * MIB
    seen.seen.clear()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {64 * MIB + 1}\r\n\r\n"
    )
    answer = Caller(limited).raw(head.encode(), seconds=3)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"request_too_large"' in answer
    assert seen.seen == []


def test_b12_a_large_body_keeps_no_other_request_waiting(
    limited: Deployment, post: Any, seen: Upstream
) -> None:
    caller, waited = Caller(limited), []
    other = caller.token("AGIATEST01")
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            waited.append(caller.call(other).elapsed.total_seconds())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        answers = [post(padded(60 * MIB)).status_code for _ in range(3)]
    finally:
        done.set()
        watcher.join()
    assert answers == [200] * 3
    assert len(waited) > 20


@pytest.mark.parametrize(
    "query", ["model=other", "model=tiny", "a=b&model=other", "mod%65l=other", "MODEL=other",
              "model", "name=other", "%6dodel=other"],
)  # fmt: skip
def test_litellm_41810_a_model_in_the_query_does_not_beat_the_body(
    post: Any, seen: Upstream, query: str
) -> None:
    answer = post({"model": "tiny"}, f"/v1/chat/completions?{query}")
    assert code_of(answer) == (400, "invalid_request")
    assert seen.seen == []


def test_kong_14536_a_body_without_a_content_type_is_not_let_through(
    post: Any, seen: Upstream
) -> None:
    assert code_of(post({"model": "other"}, Content_Type="")) == (415, "unsupported_media_type")
    assert seen.seen == []


@pytest.mark.parametrize(
    "path",
    [
        "/engines/other/chat/completions",
        "/v1/engines/other/completions",
        "/openai/deployments/other/chat/completions",
        "/v1/other/chat/completions",
    ],
)
def test_litellm_8780_a_model_in_the_path_is_no_way_round_the_body(
    post: Any, seen: Upstream, path: str
) -> None:
    assert code_of(post({"model": "tiny"}, path)) == (404, "not_found")
    assert seen.seen == []


@pytest.mark.parametrize("way", ["Authorization", "x-api-key", "Cookie"])
def test_litellm_8616_the_list_holds_however_the_token_is_shown(
    post: Any, token: str, seen: Upstream, way: str
) -> None:
    shown = {
        "Authorization": f"Bearer {token}",
        "x-api-key": token,
        "Cookie": f"auth_token={token}",
    }
    headers = {"Authorization": "", way: shown[way]}
    assert code_of(post({"model": "other"}, **headers)) == (404, "model_not_found")
    assert seen.seen == []
    assert post({"model": "tiny"}, **headers).status_code == 200


@pytest.mark.parametrize("name", [".*", "qwen|other", "(?:)", "tiny$|^other", "[a-z]*"])
def test_litellm_21267_a_models_name_is_never_a_pattern(
    post: Any, seen: Upstream, name: str
) -> None:
    assert code_of(post({"model": name})) == (404, "model_not_found")
    assert seen.seen == []


@pytest.mark.parametrize(
    "path", ["/v1/messages/batches", "/openai/v1/chat/completions", "/vertex_ai/x", "/bedrock/x"]
)
def test_litellm_41295_and_26399_there_is_no_way_round_through_another_path(
    post: Any, seen: Upstream, path: str
) -> None:
    assert code_of(post({"model": "other"}, path))[0] == 404
    assert seen.seen == []


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed", "/v1/embeddings",
                                  "/v1/completions", "/completion", "/v1/messages", "/tokenize",
                                  "/v1/responses", "/v1/rerank"])  # fmt: skip
def test_b6_every_inference_route_has_its_model_judged(
    post: Any, seen: Upstream, path: str
) -> None:
    assert post({"model": "other"}, path).status_code == 404
    assert seen.seen == []
    assert post({"model": "tiny"}, path).status_code == 200


@pytest.mark.parametrize("path", ["/api/pull", "/api/create", "/api/copy", "/api/delete"])
def test_b6_b13_a_caller_with_models_manages_none(
    limited: Deployment, seen: Upstream, path: str
) -> None:
    caller = Caller(limited)
    method = "DELETE" if path.endswith("delete") else "POST"
    answer = caller.call(caller.token("ADMNTEST01"), path, method=method, body={"model": "tiny"})
    assert code_of(answer)[0] == 403
    assert seen.seen == []


def test_b13_a_body_where_none_belongs_is_refused(limited: Deployment, seen: Upstream) -> None:
    caller = Caller(limited)
    answer = caller.call(
        caller.token("AGNFTEST01"), "/v1/models", method="GET", body={"model": "other"}
    )
    assert code_of(answer) == (400, "invalid_request")
    assert seen.seen == []


def test_a_token_that_is_revoked_while_its_body_comes_is_refused(
    limited: Deployment, seen: Upstream
) -> None:
    caller, body = Caller(limited), b'{"model":"tiny"}'
    token = caller.token("AGNFTEST01")
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    ).encode()
    for revoke, status in ((False, b"200"), (True, b"401")):
        seen.seen.clear()
        host, port = limited.gateway.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(head + body[:5])
            # Its head has been judged once another request of the same connection's worker has.
            wait_for(lambda: caller.call(token).status_code == 200, 5, "the gateway serves")
            if revoke:
                assert caller.call(token, "/logout").status_code == 204
            seen.seen.clear()
            connection.sendall(body[5:])
            answer = connection.makefile("rb").read()
        assert answer.split()[1] == status
        assert len(seen.seen) == (not revoke)


def form(*fields: tuple[str, str], last: str = "--X--\r\n") -> bytes:
    parts = "".join(
        f"--X\r\nContent-Disposition: {head}\r\n\r\n{value}\r\n" for head, value in fields
    )
    return (parts + last).encode()


FILE = ('form-data; name="file"; filename="a.wav"', "RIFF\x00--Y model")
MODEL = 'form-data; name="model"'


def test_b6_the_model_of_a_form_is_judged(post: Any, seen: Upstream) -> None:
    kind = "multipart/form-data; boundary=X"
    path = "/v1/audio/transcriptions"
    body = form(FILE, (MODEL, "tiny"))
    assert post(body, path, Content_Type=kind).status_code == 200
    assert seen.seen[-1].body == body
    seen.seen.clear()
    for fields in (
        [FILE, (MODEL, "other")],
        [FILE],
        [(MODEL, "tiny"), (MODEL, "other")],
        [(MODEL, "tiny"), ('form-data; name="MODEL"', "other")],
        [(MODEL, "tiny"), ("form-data; name*=utf-8''model", "other")],
        [(MODEL + '; filename="x"', "tiny")],
    ):
        assert post(form(*fields), path, Content_Type=kind).status_code in (400, 404)
    assert post(form((MODEL, "tiny"), last=""), path, Content_Type=kind).status_code == 400
    assert post({"model": "tiny"}, path).status_code == 415
    assert seen.seen == []


def test_a_form_as_dotnet_writes_it_is_judged_and_arrives_byte_for_byte_l1(
    post: Any, seen: Upstream
) -> None:
    kind = 'Multipart/Form-Data; Boundary="X"'
    head = "Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=model"
    file = "Content-Disposition: form-data; name=file; filename=a.wav; filename*=utf-8''a.wav"
    for model, status in (("tiny", 200), ("other", 404)):
        body = f"--X\r\n{head}\r\n\r\n{model}\r\n--X\r\n{file}\r\n\r\nRIFF\r\n--X--\r\n"
        answer = post(body, "/v1/audio/transcriptions", Content_Type=kind)
        assert answer.status_code == status, answer.text
    assert len(seen.seen) == 1
    assert b"tiny" in seen.seen[0].body
    assert seen.seen[0].values("content-type") == [kind]


FORM = "multipart/form-data; boundary=X"
TWICE = form(("form-data; name=model", "tiny"), ("form-data; name=model", "tiny"))
#: What is wrong -> Content-Type, body, status, and a word that the sentence has.
FAULTS_OF_FORMS: dict[str, tuple[str, bytes, int, str]] = {
    "another kind": ("application/json", b'{"model":"tiny"}', 415, "multipart/form-data"),
    "no kind": ("", form((MODEL, "tiny")), 415, "multipart/form-data"),
    "no boundary": ("multipart/form-data", form((MODEL, "tiny")), 415, "boundary"),
    "a charset": (f"{FORM}; charset=utf-16", form((MODEL, "tiny")), 415, "UTF-8"),
    "no body": (FORM, b"", 400, "no body"),
    "cut off": (FORM, form((MODEL, "tiny"), last=""), 400, "boundary"),
    "no model": (FORM, form(FILE), 400, "names no model"),
    "an empty model": (FORM, form((MODEL, "")), 400, "names no model"),
    "two models": (FORM, TWICE, 400, "more than one way"),
    "a name of another case": (FORM, form(('form-data; name="Model"', "tiny")), 400, "exactly so"),
    "a file": (FORM, form((MODEL + "; filename=a", "tiny")), 400, "filename"),
    "a transfer encoding": (
        FORM,
        form((MODEL + "\r\nContent-Transfer-Encoding: base64", "dGlueQ==")),
        400,
        "Content-Transfer-Encoding",
    ),
    "a kind of its own": (
        FORM,
        form((MODEL + "\r\nContent-Type: application/json", '"tiny"')),
        400,
        "text/plain",
    ),
    "a control character": (FORM, form((MODEL, "tiny\x00")), 400, "control characters"),
    "a malformed head": (FORM, form(("form-data; name=", "tiny")), 400, "head"),
}


@pytest.mark.parametrize("what", FAULTS_OF_FORMS)
def test_a_form_is_refused_for_its_true_reason_l1(post: Any, seen: Upstream, what: str) -> None:
    kind, body, status, word = FAULTS_OF_FORMS[what]
    answer = post(body, "/v1/audio/transcriptions", Content_Type=kind)
    message = answer.json()["error"]["message"]
    assert answer.status_code == status
    assert word in message
    assert "JSON" not in message
    assert ("more than one way" in message) == (what == "two models")
    assert answer.json()["error"]["code"] == (
        "unsupported_media_type" if status == 415 else "invalid_request"
    )
    assert seen.seen == []


#: What is wrong with JSON -> headers, body, and a word that the sentence has.
FAULTS_OF_JSON: dict[str, tuple[dict[str, str], str, str]] = {
    "compressed": ({"Content_Encoding": "gzip"}, "x", "compressed"),
    "a charset": ({"Content_Type": "application/json; charset=utf-16"}, "{}", "UTF-8"),
    "another kind": ({"Content_Type": "text/plain"}, "{}", "application/json"),
    "no body": ({}, "", "no body"),
    "no JSON": ({}, "model=tiny", "JSON object"),
    "no model": ({}, '{"messages":[]}', "names no model"),
    "a number": ({}, '{"model":1}', "must be a text"),
    "two models": ({}, '{"model":"tiny","model":"tiny"}', "more than one way"),
    "another name twice": ({}, '{"model":"tiny","x":1,"x":2}', "name twice"),
    "another case": ({}, '{"Model":"tiny"}', "lower case"),
    "an adapter": ({}, '{"model":"tiny","lora":[]}', "adapter"),
}


@pytest.mark.parametrize("what", FAULTS_OF_JSON)
def test_json_is_refused_for_its_true_reason_l1(post: Any, seen: Upstream, what: str) -> None:
    headers, body, word = FAULTS_OF_JSON[what]
    answer = post(body, **headers)
    message = answer.json()["error"]["message"]
    assert answer.status_code in (400, 415)
    assert word in message
    assert ("more than one way" in message) == (what == "two models")
    assert seen.seen == []


OPENAI_LIST = {
    "object": "list",
    "data": [
        {"id": name, "object": "model", "created": 1, "owned_by": "x", "path": "/secret/CANARY"}
        for name in ("tiny:latest", "qwen2.5", "other", "qwen3:cloud")
    ],
    "models": [{"name": "other"}],
}
OLLAMA_LIST = {
    "models": [
        {"name": name, "model": name, "size": 1, "details": {"family": "x", "families": []}}
        for name in ("tiny:latest", "qwen2.5:7b", "other:latest", "big:8b-cloud")
    ]
}


def get(limited: Deployment, token: str, path: str) -> requests.Response:
    return Caller(limited).call(token, path, method="GET")


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/llm/models"])
def test_the_openai_list_shows_what_the_caller_may_use_and_nothing_else(
    limited: Deployment, token: str, seen: Upstream, path: str
) -> None:
    seen.answers["/v1/models"] = OPENAI_LIST
    answer = get(limited, token, path)
    assert [model["id"] for model in answer.json()["data"]] == ["tiny:latest", "qwen2.5"]
    assert set(answer.json()) == {"object", "data"}
    assert "CANARY" not in answer.text
    free = get(limited, Caller(limited).token("AGIATEST01"), path)
    assert len(free.json()["data"]) == 4
    assert "CANARY" not in free.text


@pytest.mark.parametrize("path", ["/api/tags", "/api/ps"])
def test_the_ollama_lists_show_what_the_caller_may_use_and_nothing_else(
    limited: Deployment, token: str, seen: Upstream, path: str
) -> None:
    seen.answers[path] = OLLAMA_LIST
    models = get(limited, token, path).json()["models"]
    assert [model["name"] for model in models] == ["tiny:latest", "qwen2.5:7b", "big:8b-cloud"]
    assert models[0]["details"] == {"family": "x", "families": None}
    assert get(limited, Caller(limited).token("AGIATEST01"), path).json() == OLLAMA_LIST
    none = get(limited, Caller(limited).token("MNTRTEST01"), path).json()
    assert none == {"models": []}


def test_one_models_entry_is_shown_or_not_found_in_the_same_words(
    limited: Deployment, token: str, seen: Upstream
) -> None:
    seen.answers["/v1/models"] = OPENAI_LIST
    for name in ("tiny", "qwen2.5", "library%2Ftiny"):
        answer = get(limited, token, f"/v1/models/{name}")
        assert answer.status_code == 200
        assert set(answer.json()) == {"id", "object", "created", "owned_by"}
    refused = [get(limited, token, f"/v1/models/{name}") for name in ("other", "qwen-none", "x")]
    assert {code_of(answer) for answer in refused} == {(404, "model_not_found")}
    assert len({answer.content for answer in refused}) == 1


IDS = (
    "/models/Qwen3",
    "/models/Qwen3/",
    "hf.co/org/model:Q4_K_M",
    "C:\\models\\x.gguf",
    "../models/x (1).gguf",
    "a..b",
    "a/../b",
    "my model",
    "a+b@c",
    "100% #1?",
    "%2F",
    "'a' \"b\"",
    "[a]{b}|c;d=e&f,g!h*i",
    "\u6a21\u578b-\u00e9",
    "\U0001f600",
    "x/v1/models/y",
    "/api/tags",
    "~.-_",
    "/",
)


def list_of(*ids: str) -> dict[str, Any]:
    data = [{"id": id, "object": "model", "created": 1, "owned_by": "x"} for id in ids]
    return {"object": "list", "data": data}


def entry(where: Deployment, token: str, path: str) -> tuple[int, Any]:
    """The answer at a path that is sent as it is written: `requests` would resolve its dots."""
    connection = http.client.HTTPConnection(where.gateway.removeprefix("http://"), timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.fixture(scope="module")
def free(limited: Deployment) -> str:
    """A token whose models are not limited."""
    return Caller(limited).token("AGIATEST01")


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("safe", ["", "/:", "!$&'()*+,;=:@"])
def test_an_id_that_is_listed_can_be_asked_for_h3(
    limited: Deployment, free: str, seen: Upstream, id: str, safe: str
) -> None:
    seen.answers["/v1/models"] = list_of(id.swapcase(), id, "other")
    for before in ("/v1/models/", "/llm/v1/models/"):
        status, answer = entry(limited, free, before + quote(id, safe))
        assert (status, answer.get("id")) == (200, id), answer
    assert {one.target for one in seen.seen} == {"/v1/models"}


def leads_elsewhere(id: str) -> bool:
    """Whether a server that resolves dots finds another route."""
    path = posixpath.normpath(f"/v1/models/{id}")
    return not {".", ".."}.isdisjoint(id.split("/")) and not path.startswith("/v1/models/")


#: A route of LocalAI; its name can be asked for with an escape.
OWN_ROUTES = {"capabilities"}
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)


@given(id=TEXTS | st.text("./%?#a\\ :", min_size=1), safe=st.sampled_from(["", "/:"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_text_can_be_an_id_h3(
    limited: Deployment, free: str, seen: Upstream, id: str, safe: str
) -> None:
    seen.seen.clear()
    seen.answers["/v1/models"] = list_of("other", id)
    written = quote(id, safe)
    if id in OWN_ROUTES:
        written = f"%{ord(id[0]):02X}{id[1:]}"
    status, answer = entry(limited, free, f"/v1/models/{written}")
    if leads_elsewhere(id):
        assert status == 400
        assert seen.seen == []
    else:
        assert (status, answer.get("id")) == (200, id)


@pytest.mark.parametrize("id", ["/models/Qwen3", "org/my model:Q4", "C:\\x.gguf", "../models/x"])
def test_the_openai_client_retrieves_what_it_was_shown_h3(
    limited: Deployment, free: str, seen: Upstream, id: str
) -> None:
    seen.answers["/v1/models"] = list_of("other", id)
    with openai.OpenAI(base_url=f"{limited.gateway}/v1", api_key=free) as client:
        assert [model.id for model in client.models.list()] == ["other", id]
        assert client.models.retrieve(id).id == id
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(f"{id}-none")


@pytest.mark.parametrize(
    "path", ["%00", "a%0Ab", "a%7F", "..", "a/..", "..%2F..%2Fadmin%2F", "a%zz"]
)
def test_what_no_id_can_be_is_400_and_nothing_is_asked_h3(
    limited: Deployment, free: str, seen: Upstream, path: str
) -> None:
    status, answer = entry(limited, free, f"/v1/models/{path}")
    assert (status, answer["error"]["code"]) == (400, "invalid_request")
    assert seen.seen == []


def test_the_list_is_asked_with_the_name_that_is_meant_h3(
    limited: Deployment, token: str, seen: Upstream
) -> None:
    seen.answers["/v1/models"] = list_of("tiny", "qwen/a b", "/tiny", "other")
    for path, status in (
        ("t%69ny", 200),
        ("%74iny%3Alatest", 200),
        ("/tiny", 404),
        ("%2Ftiny", 404),
        ("%6Fther", 404),
        ("qwen/a%20b", 404),  # for Ollama, a `*` stands for no such name
    ):
        assert entry(limited, token, f"/v1/models/{path}")[0] == status, path


def test_a_forbidden_models_details_are_not_found(post: Any, seen: Upstream) -> None:
    assert post({"model": "tiny"}, "/api/show").status_code == 200
    assert post({"name": "tiny"}, "/api/show").status_code == 200
    for body in ({"model": "other"}, {"name": "other"}):
        answer = post(body, "/api/show")
        assert answer.status_code == 404
        assert isinstance(answer.json()["error"], str)
    assert post({"model": "tiny", "name": "other"}, "/api/show").status_code == 400
    assert len(seen.seen) == 2


def test_a_list_that_the_llm_server_cannot_give_is_an_error_of_portero(
    limited: Deployment, token: str, seen: Upstream
) -> None:
    for status, said in ((500, 502), (401, 502), (503, 503), (404, 404)):
        seen.answers["/v1/models"] = status
        answer = get(limited, token, "/v1/models")
        assert answer.status_code == said
        assert "CANARY" not in answer.text
    seen.answers["/v1/models"] = ["no JSON"]
    assert get(limited, token, "/v1/models").status_code == 502


def test_answers_are_untouched(post: Any) -> None:
    assert post({"model": "tiny"}).json() == CHAT_ANSWER
