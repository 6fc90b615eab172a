"""What a machine must have before a stack or the tests can start: packages and `.venv`.

Nothing is changed before the checks have passed.
"""

from collections.abc import Sequence

from run.edge import guarded
from run.packages import (
    TEST_PACKAGES,
    demo_packages,
    gateway_packages,
    install_packages,
    missing,
    package_faults,
    python_packages,
)
from run.terminal import RunError
from run.venv import DEMO, DEVELOPMENT, PRODUCT, ensure_venv


def prepare(packages: Sequence[str], files: Sequence[str]) -> None:
    """Install what is missing."""
    install_packages(packages)
    ensure_venv(files)


def set_up() -> int:
    """What `make run` needs, without running."""
    return guarded(lambda: prepare_checked(demo_packages(), (PRODUCT, DEMO)))


def set_up_tests() -> int:
    """What the tests need besides."""
    extra = [*demo_packages(), *missing(TEST_PACKAGES)]
    return guarded(lambda: prepare_checked(extra, (PRODUCT, DEMO, DEVELOPMENT)))


def prepare_checked(extra: Sequence[str], files: Sequence[str]) -> None:
    """The same, when it can be done at all."""
    packages = [*gateway_packages(), *python_packages(), *extra]
    faults = package_faults(packages)
    if faults:
        raise RunError(*faults)
    prepare(packages, files)
