"""Readers that take part in a conversation: pairing's frames and boxes, and the lines of the control socket."""

import asyncio
import hashlib
import socket
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crdtlog.errors import CrdtlogError, Malformed, Usage
from crdtlog.values import pack, unpack
from peers import control
from peers.control_server import Channel
from peers.pairing import frames
from peers.pairing.frames import FrameKind, Refused
from tests.fuzz.mutate import JSON_LINE, MSGPACK
from tests.fuzz.targets.vectors import LAPTOP, newcomer, vectors
from tests.fuzz.trial import Subject, Target
from tests.peers.pairing_world import CODE, Exchange, make_issuer, make_joiner

# --- pairing ------------------------------------------------------------------------------------------------------


def _recorded() -> list[bytes]:
    return [bytes.fromhex(frame) for frame in vectors("pairing")["frames"]]


def _frame() -> Subject:
    def read(frame: bytes) -> tuple[FrameKind, list[Any]]:
        kind, fields = frames.decode_frame(frame, frames.MAX_FRAME_BYTES)
        if kind is FrameKind.REFUSE:
            frames.refused_by_other(fields)
        elif kind is FrameKind.HELLO and fields:
            frames.common_version(fields[0])
        frames.check_shape(fields, frames.FRAME_SHAPES[kind])
        return kind, fields

    seeds = [*_recorded(), frames.refusal(frames.Reason.EXPIRED), frames.refusal(frames.Reason.VERSION)]
    seeds.append(frames.encode_frame(FrameKind.DECLINE, b"b" * 40))
    return Subject(
        seeds,
        read,
        (Refused,),
        MSGPACK,
        [b"version", b"wrong-code", b"lost"],
        write=lambda read: frames.encode_frame(read[0], *read[1]),
    )


def _box() -> Subject:
    """What is in a box, sealed by somebody who knows the code. Each case is an array of kind and content."""
    key = b"k" * 32

    def read(case: bytes) -> list[Any]:
        match unpack(case):
            case [int(number), bytes(content)] if number in frames.BOX_SHAPES:
                kind = FrameKind(number)
            case _:
                raise Malformed("no kind with a content")
        nonce = kind.to_bytes(12, "big")
        box = AESGCM(key).encrypt(nonce, content, b"crdtlog pairing frame" + bytes((kind,)))
        return [kind, *frames.open_box(key, kind, box, frames.Reason.WRONG_CODE)]

    def write(found: list[Any]) -> bytes:
        return pack([int(found[0]), pack(found[1:])])

    sign_key, receive_key = LAPTOP.public.sign_key, LAPTOP.public.receive_key
    proof = [b"h" * 32, b"s" * 64]
    confirm = [sign_key, receive_key, "phone", newcomer(LAPTOP, "admin").certificate, b"v" * 32, *proof]
    welcome = [b"d" * 32, "writer", "laptop", sign_key, receive_key, b"b" * 32, *proof, b"welcome"]
    seeds = [write([FrameKind.CONFIRM, *confirm]), write([FrameKind.WELCOME, *welcome])]
    seeds += [write([FrameKind.DECLINE, "ask me first"]), write([FrameKind.FINISH, ""])]
    return Subject(seeds, read, (Malformed, Refused), MSGPACK, write=write)


def _spake2() -> Subject:
    """A point of the other side's, which need not be one."""

    def side(is_joiner: bool) -> frames.Spake2:
        return frames.Spake2(CODE.password, is_joiner=is_joiner, random=_drawn(is_joiner))

    def read(message: bytes) -> bytes:
        return side(is_joiner=False).finish(message)

    points = [
        bytes(32),
        b"\1" + bytes(31),
        b"\xff" * 32,
        bytes(31) + b"\x80",
        b"\xec" + b"\xff" * 30 + b"\x7f",
    ]
    seeds = [side(is_joiner=True).message, side(is_joiner=False).message, *(b"A" + point for point in points)]
    return Subject(seeds, read, (Refused,))


def _drawn(is_joiner: bool) -> Callable[[int], bytes]:
    return lambda size: hashlib.shake_256(bytes((is_joiner,))).digest(size)


def _exchange() -> Subject:
    """One frame of a whole pairing is another than was sent: both sides end, or agree. The case: its place, and it."""

    def read(case: bytes) -> None:
        match unpack(case):
            case [int(place), bytes(frame)] if 0 <= place < 5:
                world = Exchange(
                    make_issuer(), make_joiner(), lambda number, sent: frame if number == place else sent
                )
            case _:
                raise Malformed("no place with a frame")
        world.run()

    seeds = [pack([place, frame]) for place, frame in enumerate(_recorded())]
    seeds.append(pack([1, frames.refusal(frames.Reason.VERSION)]))
    return Subject(seeds, read, (Malformed,), MSGPACK)


# --- the control socket -------------------------------------------------------------------------------------------

_DEEP = b"[" * 100_000 + b"\n"
_WORDS = [
    b'"error"', b'"done"', b'{"error":5}', b'{"type":"__doc__"}', b'{"type":"Temporary"}', b"NaN", b"\n", b"[" * 2_000,
    b"9" * 5_000, b'"\\ud800"', b"null",
]  # fmt: skip


def _answers() -> Subject:
    """The lines that a program on the daemon's socket answers with."""

    def read(lines: bytes) -> list[dict[str, Any]]:
        ours, theirs = socket.socketpair()
        with theirs, control.Client(ours) as client:
            theirs.settimeout(1)
            theirs.sendall(lines[:150_000])
            theirs.shutdown(socket.SHUT_WR)
            return list(client.stream("status"))

    seeds = [
        b'{"code": "417-a-b-c", "address": "192.168.1.5:4567"}\n{"told": "why"}\n{"done": {"v": 1, "device": {}}}\n',
        b'{"error": {"type": "PairingFailed", "message": "no", "hint": "again"}}\n',
        b'{"done": {}}\n',
    ]
    known = [b"[]\n", b"5\n", b"{\n", b"\xff\n", _DEEP, b'{"error": 5}\n', b'"error"\n', b'{"error": []}\n']
    return Subject(seeds, read, (CrdtlogError,), JSON_LINE, _WORDS, known=known)


def _requests() -> Subject:
    """The lines that a program sends to the daemon."""
    loop = asyncio.new_event_loop()

    async def first(lines: bytes) -> dict[str, Any]:
        reader = asyncio.StreamReader(control.MAX_LINE_BYTES)
        reader.feed_data(lines)
        reader.feed_eof()
        channel = Channel(reader, None)  # type: ignore[arg-type]
        return await channel.request()

    seeds = [
        b'{"v": 1, "command": "pair", "arguments": {"path": "/home/ada/notes.db", "role": "writer"}}\n',
        b'{"approve": true}\n',
    ]
    known = [_DEEP, b"9" * 5_000 + b"\n", b"\xff\n", b"[]\n", b"\n"]
    return Subject(
        seeds,
        lambda lines: loop.run_until_complete(first(lines)),
        (Usage, EOFError),
        JSON_LINE,
        _WORDS,
        known=known,
    )


TARGETS = [
    Target("pairing.frame", 20_000, _frame),
    Target("pairing.box", 10_000, _box),
    Target("pairing.spake2", 150, _spake2),
    Target("pairing.exchange", 60, _exchange),
    Target("control.answers", 5_000, _answers),
    Target("control.requests", 5_000, _requests),
]
