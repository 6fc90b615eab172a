"""Work that is done again and again, each time with the rest of a period behind it."""

import logging
import threading
import time
from collections.abc import Callable

from issuer.errors import PorteroError

log = logging.getLogger("portero.repeated")


def repeat(work: Callable[[], object], period_seconds: float, stop: threading.Event) -> None:
    """Until `stop` is set; a mishap is told, and ends nothing."""
    while not stop.is_set():
        began = time.monotonic()
        try:
            work()
        except PorteroError as error:
            log.error("%s; trying again", error)
        except Exception:
            log.exception("unexpected; trying again")
        stop.wait(max(0.0, began + period_seconds - time.monotonic()))
