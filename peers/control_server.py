"""The daemon's end of its control socket: requests in, messages and one result or error out.

Knows the line protocol that `control` describes, and that one connection carries one request. Must not know what
commands do. The one idea: a command is a coroutine with a channel to whoever asked; if they hang up, it is cancelled.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from crdtlog import errors
from crdtlog.device import Home, own_directory, private_directory
from crdtlog.errors import CrdtlogError, Usage
from peers.control import MAX_LINE_BYTES, Message, socket_path

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 0.2


class Channel:
    """What a command can say to whoever asked for it, and ask them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._answers: asyncio.Queue[Message] = asyncio.Queue()

    async def say(self, message: Message) -> None:
        """Send a message that needs no answer."""
        self._writer.write(json.dumps(message).encode() + b"\n")
        await self._writer.drain()

    async def ask(self, message: Message) -> Message:
        """Send a question and wait for its answer."""
        await self.say(message)
        return await self._answers.get()

    async def request(self) -> Message:
        """The next message that was sent to us. Raises `Usage` for what is none, EOFError when they hung up."""
        try:
            line = await self._reader.readline()
            if not line:
                raise EOFError
            message = json.loads(line)
        except (ValueError, RecursionError, ConnectionError) as error:
            raise Usage("a control message is one line of JSON") from error
        if not isinstance(message, dict):
            raise Usage("a control message is a JSON object")
        return message

    async def take_answers(self) -> None:
        """Keep what comes for `ask`, until they hang up."""
        with contextlib.suppress(EOFError, Usage):
            while True:
                self._answers.put_nowait(await self.request())


Command = Callable[[Mapping[str, Any], Channel], Awaitable[Message]]


class Server:
    """Serves commands by name on the home's control socket, from `start` to `close`."""

    def __init__(self, home: Home, commands: Mapping[str, Command]) -> None:
        self._home = home
        self._path = socket_path(home.run)
        self._commands = commands
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. The caller holds the daemon's lock: a socket that is there already belongs to nobody.

        Raises `KeysUnusable` if the directory of the socket is not this user's alone.
        """
        if self._path.parent == self._home.run:
            private_directory(self._path.parent)
        else:
            own_directory(self._path.parent, "set CRDTLOG_HOME to a directory with a shorter path")
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        self._server = await asyncio.start_unix_server(self._accept, str(self._path), limit=MAX_LINE_BYTES)
        self._path.chmod(0o600)

    async def close(self) -> None:
        """Stop listening, and hang up on everybody."""
        if self._server is None:
            return
        self._server.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        if self._connections:
            await asyncio.wait(
                self._connections, timeout=CLOSE_SECONDS
            )  # who has just been answered hears it
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="control connection")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = Channel(reader, writer)
        try:
            await channel.say(await self._answer(channel))
        except (EOFError, ConnectionError):
            logger.debug("whoever asked has hung up")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, channel: Channel) -> Message:
        """The last message of a request. Raises EOFError when they hung up."""
        try:
            request = await channel.request()
            command = self._commands.get(str(request.get("command")))
            if command is None:
                raise Usage(
                    f"the daemon knows no command {request.get('command')!r}", "Is it of the same version?"
                )
            arguments = request.get("arguments", {})
            if not isinstance(arguments, dict):
                raise Usage("a command's arguments are a JSON object")
            return {"done": await self._run(command, arguments, channel)}
        except CrdtlogError as error:
            return {"error": describe(error)}
        except EOFError:
            raise
        except Exception as error:
            logger.exception("a command failed")
            return {
                "error": {"type": "CrdtlogError", "message": f"the daemon met a fault: {error!r}", "hint": ""}
            }

    async def _run(self, command: Command, arguments: Mapping[str, Any], channel: Channel) -> Message:
        work = asyncio.ensure_future(command(arguments, channel))
        hung_up = asyncio.ensure_future(channel.take_answers())
        try:
            await asyncio.wait((work, hung_up), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise EOFError
            return work.result()
        finally:
            for task in (work, hung_up):
                task.cancel()
            await asyncio.gather(work, hung_up, return_exceptions=True)


def describe(error: CrdtlogError) -> Message:
    """An error as it travels: the nearest class of `crdtlog.errors`, the message and the hint."""
    kind = next(kind.__name__ for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
    return {"type": kind, "message": str(error), "hint": error.hint}
