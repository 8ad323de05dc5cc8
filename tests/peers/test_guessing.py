"""Ten thousand guesses at a code that is open on a real node: one is answered, and none gets in."""

import asyncio
import itertools
import os
from collections.abc import Iterator

import pytest

from crdtlog.device import load_device
from crdtlog.errors import CrdtlogError, PairingFailed
from peers import identity
from peers.node.joining import MAX_FRAME_BYTES
from peers.node.transport import PAIR_PATH, Caller, NoSuchCode, Wire, parse_address
from peers.pairing.codes import Code, parse_code, word_list
from peers.pairing.effects import Effect, Failed, Joined, Send
from peers.pairing.machines import Attempts, Joiner, Reason
from tests.peers.nodes import Machine, open_code, run

GUESSES = 10_000


def guesses(code: str) -> Iterator[Code]:
    """Codes of the right number, all of them wrong."""
    right = parse_code(code)
    for words in itertools.permutations(word_list(), 3):
        if words != right.words:
            yield Code(right.nameplate, words)


class Guesser:
    """A device that tries one code after another at an address, as fast as it can."""

    def __init__(self, machine: Machine, address: str) -> None:
        self._device = load_device(machine.home.prepare())
        self._certificate = identity.load_identity(machine.home, self._device).certificate
        self._address = address
        self._caller = Caller()
        self._asking: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def guess(self, code: Code) -> Reason | None:
        """Why it did not join. Raises `NoSuchCode` if nobody listens to a guess any more."""
        path = f"{PAIR_PATH}/{code.nameplate}"
        wire = await self._caller.dial(
            self._address, path, identity.pairing_context(), max_bytes=MAX_FRAME_BYTES, headers={}
        )
        try:
            return await self._talk(code, wire)
        finally:
            await wire.close()

    async def _talk(self, code: Code, wire: Wire) -> Reason | None:
        assert wire.certificate is not None
        # Whoever guesses has as many attempts as it gives itself.
        joiner = Joiner(
            code,
            self._device,
            certificate=self._certificate,
            server_certificate=wire.certificate,
            attempts=Attempts(),
            random=os.urandom,
        )
        effects: list[Effect] = joiner.start(0.0)
        while True:
            for effect in effects:
                match effect:
                    case Send(frame):
                        await wire.send(frame)
                    case Failed(reason=reason):
                        return reason
                    case Joined():
                        return None
            frame = await wire.receive()
            effects = joiner.lost() if frame is None else joiner.receive(frame, 0.0)

    async def is_listened_to(self, code: Code) -> bool:
        """Whether a guess would be listened to: the same question, on a connection that is used again."""
        if self._asking is None:
            host, port = parse_address(self._address)
            self._asking = await asyncio.open_connection(host, port, ssl=identity.pairing_context())
        reader, writer = self._asking
        request = (
            f"GET {PAIR_PATH}/{code.nameplate} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        )
        try:
            writer.write(request.encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = head.partition("content-length: ")[2].partition("\r\n")[0]
            await reader.readexactly(int(length or 0))
        except (asyncio.IncompleteReadError, ConnectionError):  # it was open for long enough
            self._asking = None
            return await self.is_listened_to(code)
        return " 404 " not in head.partition("\r\n")[0]

    async def close(self) -> None:
        await self._caller.close()
        if self._asking is not None:
            self._asking[1].close()


def test_of_ten_thousand_guesses_one_is_answered_and_none_gets_in(laptop: Machine, phone: Machine) -> None:
    async def scenario() -> None:
        async with laptop.node() as node, open_code(node, laptop) as (code, address, pairing):
            guesser = Guesser(phone, address)
            answered: list[Reason | None] = []
            unheard = 0
            for number, guess in enumerate(itertools.islice(guesses(code), GUESSES)):
                if number < 10:
                    try:
                        answered.append(await guesser.guess(guess))
                    except NoSuchCode:
                        unheard += 1
                else:
                    unheard += not await guesser.is_listened_to(guess)
            with pytest.raises(PairingFailed, match="wrong code"):
                await pairing
            with pytest.raises(NoSuchCode):  # nor does the right one work any more
                await guesser.guess(parse_code(code))
            await guesser.close()

        assert answered == [Reason.WRONG_CODE] and unheard == GUESSES - 1

    run(scenario())
    assert laptop.sql("SELECT name FROM crdtlog_devices") == [("laptop",)]


def test_of_many_guesses_at_the_same_time_one_is_answered(laptop: Machine, phone: Machine) -> None:
    """However they come in between one another, only one gets as far as a confirmation."""

    async def scenario() -> None:
        async with laptop.node() as node, open_code(node, laptop) as (code, address, pairing):
            guesser = Guesser(phone, address)
            work = [guesser.guess(guess) for guess in itertools.islice(guesses(code), 40)]
            found = await asyncio.gather(*work, return_exceptions=True)
            with pytest.raises(PairingFailed, match="wrong code"):
                await pairing
            await guesser.close()

        assert found.count(Reason.WRONG_CODE) == 1 and None not in found
        others = [each for each in found if isinstance(each, Exception)]
        assert not [each for each in others if not isinstance(each, CrdtlogError)]

    run(scenario())
    assert laptop.sql("SELECT name FROM crdtlog_devices") == [("laptop",)]
