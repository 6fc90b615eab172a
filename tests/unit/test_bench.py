"""What `make bench` measures against has Portero's own lines; it must not fall behind them."""

import subprocess
from pathlib import Path

from bench.servers import COMMON, PROXY, asking, log_format


def test_nginx_takes_the_configuration_that_portero_is_measured_against(tmp_path: Path) -> None:
    content = PROXY.format(
        folder=tmp_path,
        name="plain",
        log_format=log_format(),
        asking=asking(),
        auth="",
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
