"""Another nginx in front of another service, asking `/validate` about every request: the design
that Portero replaces, which must go on working."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support import docs
from tests.support.deployment import Caller, Deployment
from tests.support.ports import free_ports
from tests.support.upstream import Upstream
from tests.support.waiting import wait_for

#: As such blocks are written: the token in the body, or the request's own headers passed on; and
#: the whole of both locations, as docs/http-api.md has them.
BLOCKS = {
    "token in the body": """
        proxy_method POST;
        proxy_set_header Content-Type application/json;
        proxy_set_body '{"token":"$presented"}';
    """,
    "headers passed on": """
        proxy_pass_request_body off;
        proxy_set_header Content-Length "";
        proxy_set_header X-Original-URI $request_uri;
    """,
    "as the page has it": "",
}
LOCATIONS = """
        location / {{
            auth_request /auth;
            proxy_pass {upstream};
        }}
        location = /auth {{
            internal;
            proxy_pass {issuer}/validate;
            {block}
        }}
"""

CONF = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u;
    scgi_temp_path {folder}/s;
    map $http_authorization $presented {{
        default $cookie_auth_token;
        "~^Bearer (?<bearer>.+)$" $bearer;
    }}
    server {{
        listen 127.0.0.1:{port};
        {locations}
    }}
}}
"""


def locations(block: str, upstream: str, issuer: str) -> str:
    """What the other proxy does; the page's own words where there is no block."""
    if block:
        return LOCATIONS.format(upstream=upstream, issuer=issuer, block=block)
    page = docs.block("docs/http-api.md", "auth_request")
    assert page.count("http://127.0.0.1:") == 2
    return page.replace("http://127.0.0.1:3000", upstream).replace("http://127.0.0.1:9000", issuer)


@pytest.fixture(params=BLOCKS)
def other_proxy(
    request: pytest.FixtureRequest,
    deployment: Deployment,
    shared_upstream: Upstream,
    tmp_path: Path,
) -> Iterator[str]:
    (port,) = free_ports(1)
    conf = tmp_path / "nginx.conf"
    conf.write_text(
        CONF.format(
            folder=tmp_path,
            port=port,
            locations=locations(BLOCKS[request.param], shared_upstream.url, deployment.issuer),
        )
    )
    nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    assert nginx is not None, "nginx is missing"
    process = subprocess.Popen([nginx, "-c", str(conf), "-e", "stderr"], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: _answers(url), 10, "the other proxy is up")
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).status_code == 401
    except requests.ConnectionError:
        return False


def test_auth_request_lets_a_valid_token_through_and_no_other(
    other_proxy: str, caller: Caller, upstream: Upstream
) -> None:
    token = caller.token("AGNRTEST01")
    url = f"{other_proxy}/v1/chat/completions"
    bearer = {"Authorization": f"Bearer {token}"}
    assert requests.post(url, json={}, headers=bearer, timeout=10).status_code == 200
    cookie = requests.post(url, json={}, cookies={"auth_token": token}, timeout=10)
    assert cookie.status_code == 200
    assert len(upstream.seen) == 2
    bad = {"Authorization": f"Bearer {token}x"}
    assert requests.post(url, json={}, headers=bad, timeout=10).status_code == 401
    assert requests.post(url, json={}, timeout=10).status_code == 401
    assert caller.call(token, "/logout").status_code == 204
    assert requests.post(url, json={}, headers=bearer, timeout=10).status_code == 401
    assert len(upstream.seen) == 2
