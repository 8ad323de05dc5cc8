"""The control socket: requests, answers, questions in between, and what happens when either side goes away."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from crdtlog.device import Home
from crdtlog.errors import CrdtlogError, DaemonUnavailable, NoPeer, Temporary, Usage
from peers.control import Client, socket_path
from peers.control_server import Channel, Command, Server
from peers.node.transport import NoSuchCode
from tests.peers.nodes import run

MakeHome = Callable[..., Path]
Arguments = Mapping[str, Any]


async def echo(arguments: Arguments, channel: Channel) -> dict[str, Any]:
    return {"v": 1, "echo": dict(arguments)}


@asynccontextmanager
async def serving(home: Home, **commands: Command) -> AsyncIterator[None]:
    server = Server(home.prepare(), {"echo": echo, **commands})
    await server.start()
    try:
        yield
    finally:
        await server.close()


def ask(home: Home, command: str, **arguments: object) -> dict[str, Any]:
    with Client.connect(home) as client:
        return client.request(command, **arguments)


def test_a_command_is_answered_with_its_result(home: MakeHome) -> None:
    where = Home(home())

    async def scenario() -> None:
        async with serving(where):
            answer = await asyncio.to_thread(ask, where, "echo", path="/a/ü.db", number=2**60)
            assert answer == {"v": 1, "echo": {"path": "/a/ü.db", "number": 2**60}}

    run(scenario())


def test_only_the_user_may_connect(home: MakeHome) -> None:
    where = Home(home())

    async def scenario() -> None:
        async with serving(where):
            assert socket_path(where.run).stat().st_mode & 0o077 == 0

    run(scenario())


def test_a_home_with_a_long_path_is_served_too(home: MakeHome) -> None:
    where = Home(home() / ("deep" * 20) / ("deeper" * 20))

    async def scenario() -> None:
        async with serving(where):
            assert (await asyncio.to_thread(ask, where, "echo"))["v"] == 1

    run(scenario())


@pytest.mark.parametrize(
    "error", [NoPeer("nobody there", "Look again."), NoSuchCode("nobody there", "Look again.")]
)
def test_an_error_arrives_as_the_class_that_a_caller_can_know(home: MakeHome, error: CrdtlogError) -> None:
    where = Home(home())

    async def fail(arguments: Arguments, channel: Channel) -> dict[str, Any]:
        raise error

    async def scenario() -> None:
        async with serving(where, fail=fail):
            with pytest.raises(NoPeer, match="nobody there") as caught:
                await asyncio.to_thread(ask, where, "fail")
            assert isinstance(caught.value, Temporary) and caught.value.hint == "Look again."

    run(scenario())


def test_a_fault_of_the_daemon_is_an_error_not_silence(home: MakeHome) -> None:
    where = Home(home())

    async def fail(arguments: Arguments, channel: Channel) -> dict[str, Any]:
        raise ZeroDivisionError("oh")

    async def scenario() -> None:
        async with serving(where, fail=fail):
            with pytest.raises(CrdtlogError, match="ZeroDivisionError"):
                await asyncio.to_thread(ask, where, "fail")

    run(scenario())


def test_a_command_may_ask_back(home: MakeHome) -> None:
    where = Home(home())

    async def pair(arguments: Arguments, channel: Channel) -> dict[str, Any]:
        await channel.say({"code": "417-abandon-zebra-lucky"})
        return {"answer": await channel.ask({"approve": {"name": "phone"}})}

    def talk() -> list[dict[str, Any]]:
        messages = []
        with Client.connect(where) as client:
            for message in client.stream("pair"):
                messages.append(message)
                if "approve" in message:
                    client.send({"approve": True})
        return messages

    async def scenario() -> None:
        async with serving(where, pair=pair):
            messages = await asyncio.to_thread(talk)
            assert [next(iter(message)) for message in messages] == ["code", "approve", "done"]
            assert messages[-1]["done"]["answer"] == {"approve": True}

    run(scenario())


def test_a_command_is_cancelled_when_whoever_asked_hangs_up(home: MakeHome) -> None:
    where = Home(home())
    began, ended = asyncio.Event(), asyncio.Event()

    async def wait(arguments: Arguments, channel: Channel) -> dict[str, Any]:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return {}

    async def scenario() -> None:
        async with serving(where, wait=wait):
            client = await asyncio.to_thread(Client.connect, where)
            client.send({"v": 1, "command": "wait"})
            await began.wait()
            client.close()
            async with asyncio.timeout(5):
                await ended.wait()

    run(scenario())


@pytest.mark.parametrize("line", [b"[]\n", b"{\n", b'{"command": "unknown"}\n', b"\xff\n"])
def test_what_is_no_request_is_answered_with_an_error(home: MakeHome, line: bytes) -> None:
    where = Home(home())

    async def scenario() -> None:
        async with serving(where):
            reader, writer = await asyncio.open_unix_connection(str(socket_path(where.run)))
            writer.write(line)
            assert b'"Usage"' in await reader.readline()
            writer.close()

    run(scenario())


@pytest.mark.parametrize("arguments", ["[]", "[1]", '"path"', "0", "false", "7.5"])
def test_arguments_that_are_no_object_are_refused_and_no_fault_of_the_daemon(
    home: MakeHome, arguments: str, caplog: pytest.LogCaptureFixture
) -> None:
    where = Home(home())

    async def scenario() -> None:
        async with serving(where):
            reader, writer = await asyncio.open_unix_connection(str(socket_path(where.run)))
            writer.write(b'{"v": 1, "command": "echo", "arguments": %s}\n' % arguments.encode())
            answer = json.loads(await reader.readline())
            writer.close()

        assert answer["error"]["type"] == "Usage" and "arguments" in answer["error"]["message"]
        assert not caplog.records

    run(scenario())


def test_without_a_daemon_there_is_an_error_that_says_how_to_start_one(home: MakeHome) -> None:
    with pytest.raises(DaemonUnavailable) as caught:
        Client.connect(Home(home()))

    assert "crdtlog up" in caught.value.hint


def test_a_socket_that_a_killed_daemon_left_is_no_daemon_and_no_obstacle(home: MakeHome) -> None:
    where = Home(home()).prepare()

    async def scenario() -> None:
        left = await asyncio.start_unix_server(lambda reader, writer: None, str(socket_path(where.run)))
        left.close()  # the path stays
        with pytest.raises(DaemonUnavailable):
            await asyncio.to_thread(Client.connect, where)
        async with serving(where):
            assert (await asyncio.to_thread(ask, where, "echo"))["v"] == 1

    run(scenario())


def test_a_daemon_that_goes_away_in_the_middle_is_an_error(home: MakeHome) -> None:
    where = Home(home())

    async def wait(arguments: Arguments, channel: Channel) -> dict[str, Any]:
        await asyncio.sleep(60)
        return {}

    async def scenario() -> None:
        async with serving(where, wait=wait):
            asking = asyncio.create_task(asyncio.to_thread(ask, where, "wait"))
            await asyncio.sleep(0.2)
        with pytest.raises(DaemonUnavailable, match="went away"):
            await asking

    run(scenario())


def test_commands_that_are_no_commands_are_usage_errors(home: MakeHome) -> None:
    where = Home(home())

    async def scenario() -> None:
        async with serving(where):
            with pytest.raises(Usage, match="no command"):
                await asyncio.to_thread(ask, where, "dance")

    run(scenario())
