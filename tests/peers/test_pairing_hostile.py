"""Hostile bytes in a pairing: whatever arrives changed, reflected or made up, nothing false is believed."""

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from peers.pairing import frames
from peers.pairing.machines import (
    CODE_SECONDS,
    Approve,
    Burned,
    Close,
    Done,
    Joined,
    Offer,
    OfferState,
    Reason,
    State,
)
from tests.peers.pairing_world import (
    CODE,
    NOW,
    REFERENCE,
    WELCOME,
    Exchange,
    make_issuer,
    make_joiner,
    reason_of,
    seen,
    sent,
)


def run_mutated(target: int, mutation: Callable[[bytes], bytes]) -> Exchange:
    def mutate(number: int, frame: bytes) -> bytes:
        return mutation(frame) if number == target else frame

    return Exchange(make_issuer(), make_joiner(), mutate).run()


def assert_nothing_false_was_believed(exchange: Exchange, target: int) -> None:
    """The frame numbered `target` arrived changed: nothing that depends on it happened, and a reason was given."""
    approved, joined = seen(exchange.issuer_saw, Approve), seen(exchange.joiner_saw, Joined)
    assert not (approved and target < 3)
    assert not (joined and target < 4)
    assert not seen(exchange.issuer_saw, Done)
    reasons = exchange.reasons()
    assert any(reasons) and Reason.INTERNAL not in reasons
    if target < 4:
        assert exchange.issuer.state is State.CLOSED is exchange.joiner.state


def flip(bit: int) -> Callable[[bytes], bytes]:
    def mutation(frame: bytes) -> bytes:
        changed = bytearray(frame)
        changed[bit // 8 % len(frame)] ^= 1 << bit % 8
        return bytes(changed)

    return mutation


@pytest.mark.parametrize("target", range(5))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_in_any_frame_is_refused(target: int, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, len(REFERENCE[target]) * 8 - 1))
    assert_nothing_false_was_believed(run_mutated(target, flip(bit)), target)


@pytest.mark.parametrize("target", range(5))
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_cut_or_replaced_frame_is_refused(target: int, data: st.DataObject) -> None:
    frame = REFERENCE[target]
    cut = data.draw(st.integers(0, len(frame) - 1))
    changed = data.draw(
        st.sampled_from(
            [frame[:cut], frame + frame[cut:], frame[cut:], *(f for f in REFERENCE if f != frame)]
        )
        | st.binary(max_size=200)
    )
    if changed != frame:
        assert_nothing_false_was_believed(run_mutated(target, lambda _: changed), target)


def test_every_flipped_bit_of_the_confirmation_burns_or_is_malformed() -> None:
    """All of them, on one exchange brought to that point: the machine is copied, which costs less than a new one."""
    offer = Offer(CODE, NOW + CODE_SECONDS)
    issuer, joiner = make_issuer(offer), make_joiner()
    confirm = sent(joiner.receive(sent(issuer.receive(sent(joiner.start(NOW)), NOW)), NOW))
    kept = dict(vars(issuer))
    for bit in range(len(confirm) * 8):
        vars(issuer).update(kept)
        offer.state, offer._holder = OfferState.IN_USE, issuer
        effects = issuer.receive(flip(bit)(confirm), NOW)
        assert reason_of(effects) in (Reason.WRONG_CODE, Reason.MALFORMED) and not seen(effects, Approve)
        assert bool(seen(effects, Burned)) == (reason_of(effects) is Reason.WRONG_CODE)


def values() -> st.SearchStrategy[Any]:
    atoms = (
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.binary(max_size=70)
        | st.text(max_size=40)
    )
    return st.recursive(atoms, lambda inner: st.lists(inner, max_size=4), max_leaves=8)


any_frames = (
    st.binary(max_size=300)
    | st.builds(
        lambda kind, rest: msgpack.packb([kind, *rest]), st.integers(-1, 8), st.lists(values(), max_size=4)
    )
    | st.builds(lambda kind, box: msgpack.packb([kind, box]), st.integers(0, 6), st.binary(max_size=200))
)


@settings(max_examples=30, deadline=None)
@given(any_frames)
@example(b"\x81\x91\x01\x02")
@example(b"\xd6\xff\xff\xff\xff\xff")
@example(b"\x91" * 5000)
@example(b"\xdd\xff\xff\xff\xff")
@example(bytes(100_000))
@example(msgpack.packb([1, [1], b"B" + bytes(32)]))
@example(msgpack.packb([1, [1], b"A" + bytes(32)]))
@example(msgpack.packb([1, [1], b"A\x01" + bytes(31)]))
@example(msgpack.packb([1, [1], b"A" + b"\xff" * 32]))
def test_any_bytes_in_any_state_end_in_a_reason_and_closed(frame: bytes) -> None:
    fresh, waiting, asking, finishing = make_issuer(), make_issuer(), make_issuer(), make_issuer()
    waiting.receive(REFERENCE[0], NOW)
    for issuer in (asking, finishing):
        issuer.receive(REFERENCE[0], NOW)
        issuer.receive(REFERENCE[2], NOW)
    finishing.approve(WELCOME, NOW)
    unstarted, started, waiting_joiner, adopting = make_joiner(), make_joiner(), make_joiner(), make_joiner()
    for joiner in (started, waiting_joiner, adopting):
        joiner.start(NOW)
    for joiner in (waiting_joiner, adopting):
        joiner.receive(REFERENCE[1], NOW)
    adopting.receive(REFERENCE[3], NOW)
    machines = [fresh, waiting, asking, finishing, unstarted, started, waiting_joiner, adopting]
    assert [machine.state for machine in machines] == [
        *(State.HELLO, State.CONFIRM, State.PERSON, State.FINISH),
        *(State.START, State.REPLY, State.WELCOME, State.ADOPTION),
    ]

    for machine in machines:
        effects = machine.receive(frame, NOW)
        assert reason_of(effects) not in (None, Reason.INTERNAL)
        assert effects[-1] == Close() and machine.state is State.CLOSED
        assert machine.receive(frame, NOW) == machine.tick(NOW * 2) == machine.lost() == []


def test_a_reflected_message_is_refused() -> None:
    joiner = make_joiner()
    hello = sent(joiner.start(NOW))
    message = msgpack.unpackb(hello)[2]
    reflected = frames.encode_frame(frames.FrameKind.REPLY, 1, b"B" + message[1:], bytes(32))
    assert reason_of(joiner.receive(reflected, NOW)) is Reason.MALFORMED
