"""The client package reads every error of the gateway in every dialect that the gateway writes: the
bodies come out of the gateway's own Lua, the errors out of docs/http-api.md.
"""

import json
import re
from typing import Any

import pytest
from lupa.luajit21 import LuaRuntime, lua_type
from portero import APIError, StreamCut
from portero.errors import BY_CODE, error_of
from portero.streams import Reader

from issuer.policy.explanation import LUA
from run.commands import ROOT

LOAD = """
package.path = ...
package.preload["cjson.safe"] = function() return { null = false } end
return require("portero.dialect.dialects").all()
"""
API = (ROOT / "docs" / "http-api.md").read_text()
ERRORS = re.findall(
    r"(?m)^\| (\d+) \| `(\w+)` \|", API.partition("\n## Errors of the gateway\n")[2]
)
NO_CODE = "internal_error"


def plain(value: Any) -> Any:
    """A Lua table as JSON has it; `false` stands for null."""
    if lua_type(value) == "table":
        return {key: plain(item) for key, item in value.items()}
    return None if value is False else value


LUA_RUNTIME = LuaRuntime(unpack_returned_tuples=True)
DIALECTS = list(LUA_RUNTIME.execute(LOAD, f"{LUA}/?.lua").values())


def told(status: int, code: str) -> Any:
    fields = {"status": status, "message": "Words.", "code": code, "request_id": "9c78"}
    return LUA_RUNTIME.table_from(fields)


def test_errors_and_dialects_are_found_at_all() -> None:
    assert len(set(ERRORS)) > 12
    assert len(DIALECTS) == 5


@pytest.mark.parametrize(("status", "code"), sorted(set(ERRORS)))
def test_every_error_is_read_in_every_dialect(status: str, code: str) -> None:
    headers = {"x-portero-code": code, "x-request-id": "9c78"}
    for dialect in DIALECTS:
        body = json.dumps(plain(dialect["error_body"](told(int(status), code))))
        error = error_of(int(status), headers, body)
        assert (error.message, error.code, error.request_id) == ("Words.", code, "9c78")
        assert type(error) is BY_CODE.get(code, APIError)


def test_every_code_of_the_page_has_an_error_of_its_own_but_for_our_faults() -> None:
    assert {code for _, code in ERRORS} - set(BY_CODE) == {NO_CODE}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: str(dialect["paths"][1]))
def test_every_dialects_last_event_cuts_a_stream(dialect: Any) -> None:
    event = json.dumps(plain(dialect["event_body"](told(401, "invalid_api_key"))))
    with pytest.raises(StreamCut, match=r"Words\."):
        list(Reader("9c78", lambda _: None).take(f"data: {event}\n\n".encode()))
