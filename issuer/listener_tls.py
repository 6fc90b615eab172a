"""TLS at the issuer's own listener: which certificate it shows, for as long as it runs.

A renewed one is shown to the next connection. It must never end a connection, nor take what is
wrong in the place of what is in force.
"""

import logging
import ssl
import threading
import time
from pathlib import Path

from issuer import certificate_faults

log = logging.getLogger("portero.tls")

LOOK_SECONDS = 3.0
_Signature = tuple[tuple[int, int, int, int] | None, ...]


class ListenerTls:
    """The certificate in force. Raises `OSError` or `ssl.SSLError` where the first is no good."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._paths = (certificate, key)
        self._lock = threading.Lock()
        self._seen = self._signature()
        self._looked_at = time.monotonic()
        self._context = _serving(certificate, key)

    def context(self) -> ssl.SSLContext:
        """For the next connection: of the certificate as it is on disk, if nothing is wrong."""
        with self._lock:
            if time.monotonic() - self._looked_at >= LOOK_SECONDS:
                self._looked_at = time.monotonic()
                self._look()
            return self._context

    def _look(self) -> None:
        now = self._signature()
        if now == self._seen:
            return
        self._seen = now
        faults = [fault for fault in certificate_faults.of_shown(*self._paths) if fault]
        if faults:
            log.error("the issuer's certificate stays as it was: %s", "; ".join(faults))
            return
        try:
            self._context = _serving(*self._paths)
        except (OSError, ssl.SSLError) as error:
            log.error("the issuer's certificate stays as it was: %s", error)

    def _signature(self) -> _Signature:
        return tuple(map(_signature_of, self._paths))


def _signature_of(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _serving(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # A ticket's key would outlive what forward secrecy promises; the gateway keeps connections.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    context.load_cert_chain(certificate, key)
    return context
