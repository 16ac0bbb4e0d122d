"""A TCP line on loopback that can be cut, stalled and refused, to stand between a program and its server.

with closing(Proxy(5432)) as line:
    connect(line.url("postgres://postgres@127.0.0.1:5432/shop"))
    line.stall("to_client")  # the server hears, and its answers do not arrive
"""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit

Direction = Literal["to_client", "to_server"]
Answer = TypeVar("Answer")

_HOST = "127.0.0.1"
#: Seconds for the loop's thread to do what it is asked.
_PATIENCE = 10.0


class Proxy:
    """Carries connections from a port of its own to ``target_port``, in a daemon thread. For use by one thread."""

    def __init__(self, target_port: int, target_host: str = _HOST) -> None:
        self._target_host = target_host
        self.target_port = target_port
        """Where new connections lead. May be changed at any time."""
        self._accepting = True
        self._connections: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy of {target_port}", daemon=True)
        self._thread.start()
        self._server = self._in_loop(self._listen())
        self.port = int(self._server.sockets[0].getsockname()[1])

    def url(self, url: str) -> str:
        """The same URL, by way of this line."""
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}{at}{_HOST}:{self.port}").geturl()

    def cut(self) -> None:
        """End every connection there is, as a failing network does. New ones are accepted."""
        self._in_loop(self._cut())

    def stall(self, direction: Direction | Literal["both"] = "both") -> None:
        """Keep bytes waiting, also of connections to come, without ending any."""
        self._in_loop(self._let_flow(direction, False))

    def flow(self) -> None:
        """Let bytes through again, those that waited first."""
        self._in_loop(self._let_flow("both", True))

    def refuse(self) -> None:
        """End new connections as soon as they are made. Those there are go on: ``cut`` them as well."""
        self._accepting = False

    def accept(self) -> None:
        """Take new connections again."""
        self._accepting = True

    def close(self) -> None:
        """End it all. The port is free afterwards."""
        self._in_loop(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()

    # In the loop's thread

    def _in_loop(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)

    async def _listen(self) -> asyncio.Server:
        self._gates = {direction: asyncio.Event() for direction in get_args(Direction)}
        await self._let_flow("both", True)
        return await asyncio.start_server(self._take, _HOST, 0)

    async def _let_flow(self, direction: str, may: bool) -> None:
        for name, gate in self._gates.items():
            if direction in (name, "both"):
                if may:
                    gate.set()
                else:
                    gate.clear()

    async def _cut(self) -> None:
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _close(self) -> None:
        self._accepting = False
        self._server.close()
        await self._cut()

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._connect(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            if self._accepting:
                from_server, to_server = await asyncio.open_connection(self._target_host, self.target_port)
                ends.append(to_server)
                async with asyncio.TaskGroup() as both_ways:
                    both_ways.create_task(self._carry(reader, to_server, self._gates["to_server"]))
                    both_ways.create_task(self._carry(from_server, writer, self._gates["to_client"]))
        except* OSError:
            pass  # one side has gone, or the server is down: the other side shall notice
        finally:
            for end in ends:
                end.transport.abort()

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, may: asyncio.Event) -> None:
        while data := await source.read(65536):
            await may.wait()
            target.write(data)
            await target.drain()
        target.write_eof()
