"""What `make bench` measures against has Portero's own lines; it must not fall behind them."""

import subprocess
from pathlib import Path

import pytest

from bench.servers import COMMON, PROXY, asking, log_format, own_tls
from issuer import certificates


@pytest.mark.parametrize("has_tls", [False, True])
def test_nginx_takes_the_configuration_that_portero_is_measured_against(
    tmp_path: Path, has_tls: bool
) -> None:
    made = certificates.make(tmp_path / "tls", ("127.0.0.1",))
    content = PROXY.format(
        folder=tmp_path,
        name="plain",
        log_format=log_format(),
        asking=asking(),
        auth="",
        speaks=" ssl http2" if has_tls else "",
        own_tls=own_tls(made) if has_tls else "",
        port=1,
        upstream=2,
        issuer=3,
    )
    path = tmp_path / "plain.conf"
    path.write_text(COMMON.format(folder=tmp_path, name="plain", content=content))
    done = subprocess.run(
        ["/usr/sbin/nginx", "-t", "-q", "-c", str(path), "-e", "stderr"],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr
