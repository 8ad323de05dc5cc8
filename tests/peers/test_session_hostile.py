"""A sync session against a peer that does not keep to the protocol: it ends, with a reason, and never raises."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers.session import messages
from peers.session.machine import Apply, CaughtUp, Close, Effect, State
from peers.session.messages import Ack, Entries, Item, Message, Ping, Pong, Refuse
from tests.peers import session_world as world
from tests.peers.session_world import (
    NOW,
    SMALL,
    Device,
    Head,
    Script,
    closes,
    connect,
    cut,
    device_id,
    sent,
)


@pytest.mark.parametrize("message", [Ping(), Pong(), Ack(0, {}), Entries((Item(bytes(24), 1, b"x"),))])
def test_nothing_comes_before_the_hello(message: Message) -> None:
    assert closes(Script().say(message)).code == "violation"


def test_a_second_hello_is_a_violation() -> None:
    script = Script().open()

    close = closes(script.say(script.hello))

    assert close.code == "violation" and "Hello" in close.reason


def test_a_pong_that_nobody_asked_for_is_a_violation() -> None:
    assert closes(Script().open().say(Pong())).code == "violation"


def test_an_ack_for_batches_that_were_never_sent_is_a_violation() -> None:
    assert closes(Script().open().say(Ack(1, {}))).code == "violation"


@pytest.mark.parametrize("seqs", [(1, 3), (1, 1), (2, 1), (2, 4)])
def test_gaps_and_repetitions_are_violations(seqs: tuple[int, ...]) -> None:
    script = Script().open()

    close = closes(script.say(Entries(tuple(script.item(seq) for seq in seqs))))

    assert close.code == "violation" and script.writer.hex() in close.reason


def test_sending_again_what_the_hello_said_we_hold_is_a_violation() -> None:
    device = Device("a")
    device.log.heads[device_id("c") + b"writer 1"] = Head(3, bytes(32))
    script = Script(device).open()

    effects = script.say(Entries((script.item(3, writer=device_id("c") + b"writer 1"),)))

    assert closes(effects).code == "violation"


def test_an_entry_sealed_for_another_session_does_not_open() -> None:
    script, other = Script().open(), Script().open()

    close = closes(script.say(Entries((other.item(1),))))

    assert close.code == "violation" and "does not open" in close.reason


def recorded() -> tuple[Device, Device, list[bytes], list[bytes]]:
    """Two devices that have exchanged entries, and what each of them sent in that session."""
    a, b = Device("a"), Device("b")
    a.write(b"of a")
    b.write(b"of b")
    left, right = connect(a, b)
    world.run(a, b)
    a.write(b"of a, later")
    world.run(a, b)
    assert a.log.vector == b.log.vector and sum(a.log.vector.values()) == 3
    cut(left)
    return a, b, left.frames, right.frames


def fed(device: Device, peer: Device, frames: list[bytes]) -> list[Effect]:
    """What a new session of a device does with these frames, until it ends."""
    session = device.session(peer.id)
    effects = list(session.start(NOW))
    for frame in frames:
        if session.state is not State.CLOSED:
            effects += session.receive(frame, NOW)
    return effects


@pytest.mark.parametrize("emptied", [False, True])
def test_what_was_recorded_of_one_session_brings_nothing_in_another(emptied: bool) -> None:
    """Not even to a device that has lost all that it had since."""
    a, b, _, of_b = recorded()
    device = Device("a") if emptied else a

    effects = fed(device, b, of_b)

    assert isinstance(effects[-1], Close)
    assert not [effect for effect in effects if isinstance(effect, Apply | CaughtUp)]


@pytest.mark.parametrize("emptied", [False, True])
def test_what_a_device_sent_itself_is_nothing_that_it_takes(emptied: bool) -> None:
    a, b, of_a, of_b = recorded()
    device = Device("a") if emptied else a

    for frames in (of_a, [of_b[0], *of_a[1:]]):
        effects = fed(device, b, frames)
        assert isinstance(effects[-1], Close)
        assert not [effect for effect in effects if isinstance(effect, Apply | CaughtUp)]


def test_an_entry_that_unpacks_to_more_than_allowed_does_not_open() -> None:
    script = Script(Device("a", limits=replace(SMALL, entry_bytes=100))).open()

    assert closes(script.say(Entries((script.item(1, bytes(101)),)))).code == "violation"


@pytest.mark.parametrize(("size", "fits"), [(100, SMALL.window_batches), (900, 1)])
def test_a_peer_that_overruns_the_window_is_cut_off(size: int, fits: int) -> None:
    script = Script().open()

    for seq in range(1, fits + 1):
        script.say(Entries((script.item(seq, bytes(size)),)))
    effects = script.say(Entries((script.item(fits + 1, bytes(size)),)))

    close = closes(effects)
    assert close.code == "window" and "unacknowledged" in close.reason


def test_many_entries_in_one_frame_larger_than_the_window_are_not_one_large_entry() -> None:
    script = Script().open()

    effects = script.say(Entries((script.item(1, bytes(1_500)), script.item(2, bytes(1_500)))))

    assert closes(effects).code == "window"


def test_a_frame_beyond_the_limit_is_not_even_looked_at() -> None:
    script = Script(Device("a", limits=replace(SMALL, frame_bytes=1_000))).open()

    assert closes(script.session.receive(bytes(1_001), NOW)).code == "violation"


@pytest.mark.parametrize("message", [Ping(), Ack(0, {})])
def test_a_flood_of_messages_that_move_nothing_is_cut_off(message: Message) -> None:
    script = Script().open()

    endings = [script.say(message) for _ in range(SMALL.small_burst + 1)]

    assert closes(endings[-1]).code == "flood"
    assert all(not any(isinstance(e, Close) for e in effects) for effects in endings[:-1])


def test_a_flood_of_large_acks_is_cut_off_by_its_bytes() -> None:
    script = Script(Device("a", limits=replace(SMALL, small_burst_bytes=10_000))).open()
    vector = {bytes([n]) * 24: 1 for n in range(200)}

    script.say(Ack(0, vector))

    assert closes(script.say(Ack(0, vector))).code == "flood"


def test_pings_at_a_human_pace_go_on_for_ever() -> None:
    script = Script().open()

    for second in range(0, 7_200, 20):
        assert sent(script.say(Ping(), NOW + second)) == [Pong()]


def transcript() -> list[bytes]:
    """Every frame that a busy session receives, from Hello to Refuse."""
    script = Script()
    batch = Entries((script.item(1), script.item(2)))
    ack = Ack(0, {script.writer: 2})
    said: list[Message] = [
        script.hello,
        batch,
        ack,
        Ping(),
        Pong(),
        Refuse("stopped", "later", False, (1, 1)),
    ]
    return [messages.encode(message) for message in said]


FRAMES = transcript()


@given(st.sampled_from(FRAMES), st.data())
def test_no_mutated_frame_raises(frame: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(frame) - 1))
    mutated = (
        frame[:at] + data.draw(st.binary(min_size=1, max_size=4)) + frame[at + data.draw(st.integers(0, 4)) :]
    )
    for script in (Script(), Script().open()):
        before = script.session.state
        effects = script.session.receive(mutated, NOW)
        assert script.session.state in (before, State.OPEN) or closes(effects)


@given(st.sampled_from(FRAMES), st.data())
def test_every_truncated_frame_ends_the_session(frame: bytes, data: st.DataObject) -> None:
    short = frame[: data.draw(st.integers(0, len(frame) - 1))]
    for script in (Script(), Script().open()):
        assert closes(script.session.receive(short, NOW)).code == "violation"


@given(st.binary(max_size=200))
def test_noise_never_raises(noise: bytes) -> None:
    for script in (Script(), Script().open()):
        effects = script.session.receive(noise, NOW)
        assert script.session.state is not State.CLOSED or closes(effects)
