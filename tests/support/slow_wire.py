"""A wire between the gateway and an LLM server on which everything takes its time, each way: what
is sent, and the end of it. It must never lose or reorder anything: what it cannot deliver, because
the other side has left, meets a closed connection as it would at the end of a real wire.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SlowWire:
    """Listens on a free port of loopback, leads to `target`."""

    def __init__(self, target: int, delay_seconds: float) -> None:
        self._target = target
        self._delay_seconds = delay_seconds
        #: How many connections were made so far.
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._connect, "127.0.0.1", 0, backlog=256)
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the gateway finds the LLM server."""
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """End all."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _connect(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.connections += 1
        server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(self._carry(client, to_server), self._carry(server, to_client))

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """All that comes is on its way for as long as the first of it."""
        block = b"-"
        while block:
            try:
                block = await source.read(65536)
            except OSError:
                block = b""
            self._loop.call_later(self._delay_seconds, self._deliver, block, sink)

    @staticmethod
    def _deliver(block: bytes, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            if block:
                sink.write(block)
            else:
                sink.close()


@contextmanager
def slow_wire(target: int, delay_seconds: float) -> Iterator[SlowWire]:
    """A wire for the time of a `with`."""
    wire = SlowWire(target, delay_seconds)
    try:
        yield wire
    finally:
        wire.close()
