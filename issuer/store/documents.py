"""Texts that issuers on several machines share, each whole and sealed: the list of signing keys.

It must never hold a text in plain: who can read the database shall learn no key from it.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, insert, select, update

from issuer.errors import StoreUnavailable
from issuer.keys.sealing import Sealing
from issuer.store.database import Database
from issuer.store.tables import documents


class Document:
    """One text by its name: what a file is to issuers of one machine (`keys/key_file.Place`)."""

    def __init__(self, database: Database, name: str, sealing: Sealing) -> None:
        self._database = database
        self._name = name
        self._sealing = sealing
        self._local = threading.local()

    def __str__(self) -> str:
        return f"{self._name} in the database"

    def signature(self) -> object:
        """What changes whenever the text does; None where there is none."""
        serial = select(documents.c.serial).where(documents.c.name == self._name)
        return self._ask(lambda connection: connection.scalar(serial))

    def read(self) -> str | None:
        """The text, or None. Raises `StoreUnavailable` where SEAL_KEY does not open it."""
        content = select(documents.c.content).where(documents.c.name == self._name)
        sealed = self._ask(lambda connection: connection.scalar(content))
        if sealed is None:
            return None
        try:
            return self._sealing.unseal(sealed)
        except ValueError:
            text = f"{self} was sealed by another SEAL_KEY; all issuers need the same"
            raise StoreUnavailable(text) from None

    @contextmanager
    def changing(self) -> Iterator[None]:
        """One process and thread at a time, from reading to replacing."""
        with self._database.transaction() as connection:
            self._local.connection = connection
            try:
                yield
            finally:
                self._local.connection = None

    def replace(self, content: bytes) -> None:
        """Another text in its place, within `changing`."""
        connection: Connection = self._local.connection
        sealed = self._sealing.seal(content)
        named = documents.c.name == self._name
        changed = connection.execute(
            update(documents).where(named).values(content=sealed, serial=documents.c.serial + 1)
        )
        if not changed.rowcount:
            connection.execute(insert(documents).values(name=self._name, serial=1, content=sealed))

    def _ask(self, work: Callable[[Connection], Any]) -> Any:
        connection: Connection | None = getattr(self._local, "connection", None)
        return work(connection) if connection is not None else self._database.read(work)
