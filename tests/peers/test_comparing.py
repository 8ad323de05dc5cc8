"""Logs of one name that are not the same on both devices: where they part is found, and both get the proof."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers.session.comparing import MAX_COMPARES
from peers.session.effects import Effect
from peers.session.machine import Apply, Close, Fetch, Learn, Look, Send, Session, Show
from peers.session.messages import MAX_COMPARED, Ack, Compare, Entries, Fork, HeadSeen
from tests.peers.session_world import NOW, Device, Head, Script, closes, device_id, seal, sent, unseal

LOG = device_id("c") + b"writer 1"


def digest(side: str, seq: int) -> bytes:
    return f"{side} {seq}".encode().ljust(32)


@dataclass
class Side:
    """One end of a session, whose log of one writer is the other's up to `same`, and then its own."""

    name: str
    same: int
    end: int
    effects: list[Effect] = field(default_factory=list)
    learned: list[bytes] = field(default_factory=list)
    session: Session = field(init=False)

    def __post_init__(self) -> None:
        self.device = Device(self.name)

    def hash(self, seq: int) -> bytes:
        return digest("both" if seq <= self.same else self.name, seq)

    def begin(self, peer: "Side") -> None:
        heads = {LOG: Head(self.end, self.hash(self.end))} if self.end else {}
        local = replace(self.device.local(), heads=heads)
        entropy = iter(range(1, 1 << 30))
        self.session = Session(
            local,
            peer.device.id,
            seal,
            unseal,
            lambda size: (self.name + str(next(entropy))).encode().ljust(size),
        )
        self.effects += self.session.start(NOW)

    def step(self) -> list[bytes]:
        """Do what is asked for; returns the frames to deliver."""
        frames = []
        todo, self.effects = self.effects, []
        for effect in todo:
            match effect:
                case Send(frame):
                    frames.append(frame)
                case Look(number, asked):
                    found = {w: {s: self.hash(s) for s in seqs if s <= self.end} for w, seqs in asked.items()}
                    self.effects += self.session.looked(number, found, NOW)
                case Show(writer, seq):
                    self.effects += self.session.shown(writer, seq, f"{self.name} shows {seq}".encode(), NOW)
                case Learn(signed):
                    self.learned.append(signed)
                    self.effects += self.session.learned(NOW)
                case Apply() | Fetch():
                    raise AssertionError("entries move although names of logs mean different things")
                case Close():
                    self.closed = effect
        return frames


def meet(a: Side, b: Side) -> int:
    """Until nothing moves; how many frames were sent."""
    a.begin(b)
    b.begin(a)
    count = 0
    while a.effects or b.effects:
        for here, there in ((a, b), (b, a)):
            for frame in here.step():
                count += 1
                there.effects += there.session.receive(frame, NOW)
    return count


@given(st.integers(0, 1 << 20), st.integers(1, 1 << 20), st.integers(1, 1 << 20))
def test_both_get_the_others_first_entry_that_differs(same: int, more: int, less: int) -> None:
    a, b = Side("a", same, same + more), Side("b", same, same + less)
    count = meet(a, b)
    assert a.learned == [f"b shows {same + 1}".encode()]
    assert b.learned == [f"a shows {same + 1}".encode()]
    for side in (a, b):
        assert (side.closed.code, side.closed.permanent) == ("fork", False)
    assert count <= 20


def opened(seq: int = 9) -> Script:
    device = Device("a")
    device.log.heads[LOG] = Head(9, digest("a", 9))
    script = Script(device)
    script.hello = replace(script.hello, heads={LOG: HeadSeen(seq, digest("b", seq)[:8])})
    script.effects = script.say(script.hello)  # type: ignore[attr-defined]
    return script


def test_nothing_is_taken_or_acknowledged_while_logs_are_compared() -> None:
    script = opened(5)
    effects = script.say(Entries((script.item(1),)))
    assert not [effect for effect in effects if isinstance(effect, Apply | Send)]


def test_who_compares_without_end_is_dropped() -> None:
    script = Script()
    script.device.log.heads[LOG] = Head(9, digest("a", 9))
    script.open()
    for _ in range(MAX_COMPARES):
        script.say(Compare(LOG, 0, (HeadSeen(9, digest("b", 9)[:8]),)))
    close = closes(script.say(Compare(LOG, 0, (HeadSeen(9, digest("b", 9)[:8]),))))
    assert close.code == "flood"


def test_who_compares_what_is_the_same_breaks_the_protocol() -> None:
    script = Script().open()
    effects = script.say(Compare(LOG, 0, (HeadSeen(9, digest("a", 9)[:8]),)))
    assert isinstance(effects[-1], Look)
    close = closes(script.session.looked(effects[-1].number, {LOG: {9: digest("a", 9)}}, NOW))
    assert close.code == "violation"


def test_who_compares_a_log_that_is_not_held_breaks_the_protocol() -> None:
    script = Script().open()
    effects = script.say(Compare(LOG, 0, (HeadSeen(9, digest("a", 9)[:8]),)))
    assert isinstance(effects[-1], Look)
    assert closes(script.session.looked(effects[-1].number, {}, NOW)).code == "violation"


def test_a_fork_beside_an_entry_that_is_not_held_breaks_the_protocol() -> None:
    script = Script().open()
    item = script.item(4, writer=LOG)
    effects = script.say(Fork(LOG, 4, item.sealed))
    assert effects == [Show(LOG, 4)]
    assert closes(script.session.shown(LOG, 4, None, NOW)).code == "violation"


def test_a_second_fork_breaks_the_protocol() -> None:
    script = Script().open()
    item = script.item(4, writer=LOG)
    script.say(Fork(LOG, 4, item.sealed))
    assert closes(script.say(Fork(LOG, 5, item.sealed))).code == "violation"


def test_an_entry_that_rests_on_another_history_ends_the_session_for_a_moment() -> None:
    script = Script().open()
    script.say(Entries((script.item(1),)))
    close = closes(script.session.refused("another history", NOW, is_fork=True))
    assert (close.code, close.permanent) == ("fork", False)


@pytest.mark.parametrize("unconfirmed", [True, False], ids=["never sent", "sent"])
def test_our_own_entry_that_was_never_sent_is_no_fork(unconfirmed: bool) -> None:
    device = Device("a")
    for _ in range(3):
        device.write()
    own = device.log.writer
    script = Script(device)
    held = device.log.hashes({own: (1, 2, 3)})
    if unconfirmed:
        script.session = Session(
            replace(device.local(), unconfirmed=held[own]), script.id, seal, unseal, bytes, device.limits
        )
        script.session.start(NOW)
    effects = script.say(replace(script.hello, heads={own: HeadSeen(3, bytes(8))}))
    if unconfirmed:
        assert closes(effects).code == "restored"
    else:
        assert [type(effect) for effect in effects][1:] == [Look]
        assert isinstance(effects[1], Look) and effects[1].asked == {own: (1, 2, 3)}
        (question,) = sent(script.session.looked(effects[1].number, held, NOW))
        assert isinstance(question, Compare) and question.same == 0 and len(question.seen) <= MAX_COMPARED


def test_acknowledgements_wait_too() -> None:
    script = opened(5)
    assert script.say(Ack(0, {})) == []
