"""Stores of a test's own."""

from pathlib import Path

from sqlalchemy.engine import URL

from issuer.store.database import SQLITE, Database
from issuer.store.sessions import Sessions


def sessions_in(path: Path) -> Sessions:
    """The store in an SQLite file."""
    return Sessions(Database(URL.create(SQLITE, database=str(path)).render_as_string()))
