"""Origins: what may be named, what is wrong with what may not, which one is our own. Held equal to
the gateway's: `config.lua` finds the same faults, `origins_spec.lua` reads the same senders.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from issuer import origins
from issuer.origins import Origins
from run.commands import ROOT

SENDERS = json.loads((Path(__file__).parents[1] / "senders.json").read_text())

GOOD = [
    "https://chat.example",
    "http://localhost:3000",
    "http://127.0.0.1",
    "http://[::1]:3000",
    "https://[fd00::7]",
    "https://xn--mnchen-3ya.example",
    "https://chat.example.",
    "https://a_b.example:65535",
    "app://obsidian.md",
    "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
    "moz-extension://6e8f2a3c-1b2d-4c5e-8f90-a1b2c3d4e5f6",
    "safari-web-extension://6e8f2a3c-1b2d-4c5e-8f90-a1b2c3d4e5f6",
    "tauri://localhost",
    "capacitor://localhost",
    "ionic://localhost",
    "vscode-webview://1abc2def",
    "web+x.y-z://h",
    f"https://{'x' * 292}",
    "http://x:443",
    "https://x:80",
]
BAD = {
    "null": "is null",
    "*": "is a pattern",
    "https://*.example": "is a pattern",
    "https://CHAT.example": "has capitals",
    "HTTPS://chat.example": "has capitals",
    "chrome-extension://ABC": "has capitals",
    "https://chat.example/": "has a path",
    "https://chat.example/app": "has a path",
    "app://obsidian.md/": "has a path",
    "https://chat.example:443": "has its scheme's own port",
    "http://[::1]:80": "has its scheme's own port",
    f"https://{'x' * 293}": "is longer than 300",
    **dict.fromkeys(
        [
            "chat.example",
            "localhost:3000",
            "https://",
            "https:///",
            "file://",
            "//chat.example",
            "https:chat.example",
            "https://chat.example?x",
            "https://chat.example#x",
            "https://user:secret@chat.example",
            "https://user@chat.example",
            "https://chat.example:",
            "https://chat.example:0",
            "https://chat.example:65536",
            "https://chat.example:123456",
            "https://chat.example:08",
            "https://chat.example:x",
            "https://chat.example https://x",
            "https://chat .example",
            "https://[::1",
            "https://::1",
            "https://m\u00fcnchen.example",
            "https://x\r",
            "https://x\t",
            "1x://h",
            "-x://h",
            "://h",
            'https://x"; } server { listen 1; } #',
            "https://x|e",
            "https://x&y",
            "https://x\\",
            "https://$host",
            "~https://x",
            "\\https://x",
            "default",
            "undefined",
            "none",
        ],
        "is not SCHEME://HOST",
    ),
}


def told_by_the_gateway(listed: list[str]) -> list[str]:
    """What `config.lua` says of entries, one a line."""
    done = subprocess.run(
        ["luajit", "tests/unit/lua/read_origins.lua"],
        input="".join(f"{entry}\n" for entry in listed).encode(),
        env={"LUA_PATH": "openresty/lua/?.lua;;", "PATH": "/usr/bin:/bin"},
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=10,
    )
    return done.stdout.decode().splitlines()


def told_by_the_issuer(listed: list[str]) -> list[str]:
    return [f"CORS_ORIGINS: {fault}" for fault in origins.faults(listed)]


@pytest.mark.parametrize("origin", GOOD)
def test_an_origin_of_any_scheme_is_taken_o1(origin: str) -> None:
    assert told_by_the_issuer([origin]) == told_by_the_gateway([origin]) == []


@pytest.mark.parametrize("entry", BAD)
def test_what_no_browser_sends_is_a_fault_that_says_why_o1(entry: str) -> None:
    (fault,) = origins.faults([entry])
    assert fault.startswith("each must be an origin as a browser sends it; number 1 ")
    assert BAD[entry] in fault
    assert told_by_the_gateway([entry]) == [f"CORS_ORIGINS: {fault}"]
    assert "secret" not in fault


def test_each_faulty_entry_is_told_by_its_number_o1() -> None:
    listed = ["https://a", "*", "https://b", "null", "https://c/"]
    told = told_by_the_issuer(listed)
    assert [fault.partition("number ")[2][0] for fault in told] == ["2", "4", "5"]
    assert told_by_the_gateway(listed) == told


#: What an origin is made of, and what it is not.
PARTS = st.sampled_from(
    [
        *("http", "https", "app", "://", ":", "/", "//", "a", "x.y", "Z", "[::1]", "[", "]", "80"),
        *("443", "65536", "0", "*", "null", "@", " ", "-", ".", "?", "#", "+", "_", '"', "\\", "$"),
        *("~", "é"),
    ]
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(PARTS, min_size=1, max_size=6).map("".join), min_size=20, max_size=60))
def test_both_sides_find_the_same_faults_o1(listed: list[str]) -> None:
    entries = origins.entries(",".join(listed))
    assert told_by_the_gateway(entries) == told_by_the_issuer(entries)


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("", []),
        (" , ,", []),
        ("a", ["a"]),
        ("a, b ,c,", ["a", "b", "c"]),
        ("a\nb", ["a", "b"]),
        ("a b", ["a b"]),
        ("a\t,b", ["a\t", "b"]),
    ],
)
def test_a_list_is_separated_by_commas(text: str, listed: list[str]) -> None:
    assert origins.entries(text) == listed


@pytest.mark.parametrize("case", SENDERS, ids=[case["name"] for case in SENDERS])
def test_i5_a_page_of_another_site_is_told_from_our_own_q4(case: dict[str, Any]) -> None:
    # A server joins headers of a name, as RFC 9110 section 5.2 has it.
    headers = {
        name: ",".join(value) if isinstance(value, list) else value
        for name, value in case["headers"].items()
    }
    headers = {name: headers.get(name) for name in ("Sec-Fetch-Site", "Origin")}
    headers["Host"] = case["host"]
    public = origins.base_url(case["public_url"])
    assert bool(public) is bool(case["public_url"])
    assert Origins(public).is_another_site(headers.get, case["over_tls"]) is case["is_another_site"]


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("https://chat.example", True),
        ("app://obsidian.md", True),
        ("APP://Obsidian.md", True),
        ("https://chat.example:8443", False),
        ("https://chat.example,https://chat.example", False),
        ("https://chat.example.evil.example", False),
        ("null", False),
        ("", False),
        (None, False),
    ],
)
def test_only_an_origin_that_is_named_is_let_in_q4(origin: str | None, expected: bool) -> None:
    named = Origins("", frozenset(["https://chat.example", "app://obsidian.md"]))
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": origin, "Host": "x"}
    assert named.is_named(headers.get) is expected
    assert not Origins().is_named(headers.get)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://portero.example", "http://portero.example"),
        ("https://Portero.Example/", "https://portero.example"),
        ("https://portero.example:443", "https://portero.example"),
        ("http://portero.example:443", "http://portero.example:443"),
        ("http://10.0.0.1:08080", "http://10.0.0.1:8080"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("https://[FD00::1]:443", "https://[fd00::1]"),
        *(
            (text, "")
            for text in (
                *("", "portero.example", "ftp://portero.example", "http://", "http://x/y"),
                *("http://x//", "http://x?y", "http://x#y", "http://u:p@x", "http://x:0"),
                *("http://x:65536", "http://x:", "http://x:y", "http://a b", "http://x,http://y"),
                *("http://*", "http://-x", "HTTP://x", "http://x\n"),
            )
        ),
    ],
)
def test_a_base_url_has_one_form_q2(text: str, url: str) -> None:
    assert origins.base_url(text) == url
