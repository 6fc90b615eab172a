"""Who does for all issuers what only one shall do, and until when: a row of the store.

Times are the database's, as the clocks of machines differ. Where the store is a file of one machine
there is one reconciler, and nothing to choose.
"""

import secrets

from sqlalchemy import Connection, delete, func, insert, select

from issuer.store.database import Database
from issuer.store.tables import leases


class Lease:
    """One task, for one process: `hold` says whether it is this one's now."""

    def __init__(self, database: Database, name: str, seconds: float) -> None:
        self._database = database
        self._name = name
        self._seconds = seconds
        self._holder = secrets.token_hex(8)

    def hold(self) -> bool:
        """Take it where nobody has it, or keep it. Raises `StoreUnavailable`."""
        if self._database.is_file:
            return True
        with self._database.transaction() as connection:
            return self._hold(connection)

    def release(self) -> None:
        """Leave it to the next at once. Raises `StoreUnavailable`."""
        if self._database.is_file:
            return
        mine = (leases.c.name == self._name, leases.c.holder == self._holder)
        with self._database.transaction() as connection:
            connection.execute(delete(leases).where(*mine))

    def _hold(self, connection: Connection) -> bool:
        now = float(connection.scalar(select(func.extract("epoch", func.clock_timestamp()))) or 0)
        named = leases.c.name == self._name
        row = connection.execute(select(leases).where(named)).first()
        if row and row.holder != self._holder and row.until > now:
            return False
        connection.execute(delete(leases).where(named))
        values = {"name": self._name, "holder": self._holder, "until": now + self._seconds}
        connection.execute(insert(leases).values(**values))
        return True
