"""A sync session, rule by rule: how it begins, what it sends, and how it ends."""

from dataclasses import replace

import pytest

from peers.session import messages
from peers.session.machine import Apply, CaughtUp, Close, Fetch, Held, Limits, Look, PeerKnown, Session
from peers.session.messages import Ack, Entries, HeadSeen, Hello, Item, Ping, Pong, Refuse
from tests.peers.session_world import (
    NOW,
    SMALL,
    Device,
    End,
    Head,
    Script,
    closes,
    connect,
    cut,
    device_id,
    entropy,
    join,
    run,
    seal,
    sent,
    unseal,
)

# --- meeting --------------------------------------------------------------------------------------------------


def test_two_devices_with_equal_heads_exchange_two_hellos_and_nothing_else() -> None:
    a, b = Device("a"), Device("b")
    for device in (a, b):
        device.write(bytes(100))
    connect(a, b)
    run(a, b)
    cut(a.ends[0])

    left, right = connect(a, b)
    run(a, b)

    for end in (left, right):
        assert [type(messages.decode(frame)) for frame in end.frames] == [Hello]
        assert len(end.frames[0]) < 400
        assert end.caught_up == [a.log.vector]


def test_the_peer_introduces_itself() -> None:
    script = Script()
    hello = replace(script.hello, clock_ms=int(NOW * 1000) + 7_000)

    effects = script.say(hello)

    assert effects == [PeerKnown("b", script.id, script.writer, 1, (1, 1), 7_000), CaughtUp()]


def test_the_hello_tells_what_the_peer_holds_and_starts_what_it_lacks() -> None:
    device = Device("a", limits=Limits())
    device.write()
    device.write()
    script = Script(device)
    asked = {device.log.writer: (1,)}
    found = device.log.hashes(asked)
    first = HeadSeen(1, found[device.log.writer][1][:8])

    effects = script.say(replace(script.hello, heads={device.log.writer: first}))
    assert effects[1:] == [Look(0, asked)]
    effects = script.session.looked(0, found, NOW)

    assert effects == [
        Held({device.log.writer: 1}),
        Fetch(0, {device.log.writer: 1}, Limits().batch_bytes),
    ]


def test_an_older_and_a_newer_version_refuse_each_other_in_clear_words() -> None:
    a, b = Device("a"), Device("b")
    old, new = End(a, a.session(b.id, (1, 1))), End(b, b.session(a.id, (2, 3)))
    join(old, new)
    run(a, b)

    for end in (old, new):
        assert end.closed is not None
        assert (end.closed.code, end.closed.permanent) == ("version", True)
        assert "version 1" in end.closed.reason and "version 2 to 3" in end.closed.reason
    assert old.closed is not None and old.closed.hint == "Update crdtlog on this device."
    assert new.closed is not None and new.closed.hint == "Update crdtlog on the other device."


def test_a_refusal_that_comes_before_the_hello_says_which_side_to_update() -> None:
    script = Script()

    close = closes(script.say(Refuse("version", "too old", True, (2, 3))))

    assert close.by_peer and close.permanent and close.code == "version"
    assert close.hint == "Update crdtlog on this device."


def test_the_highest_common_version_is_spoken() -> None:
    effects = Script(versions=(1, 2)).say(replace(Script().hello, versions=(1, 3)))

    assert isinstance(effects[0], PeerKnown) and effects[0].version == 2


def test_another_database_is_refused() -> None:
    script = Script()

    assert closes(script.say(replace(script.hello, database=bytes(32)))).code == "database"


@pytest.mark.parametrize("lie", [{"device": bytes(16)}, {"writer": bytes(24)}])
def test_a_hello_that_is_not_the_certificates_owner_is_refused(lie: dict[str, bytes]) -> None:
    script = Script()

    assert closes(script.say(replace(script.hello, **lie))).code == "identity"  # type: ignore[arg-type]


def test_a_connection_to_ourselves_ends_without_a_word() -> None:
    device = Device("a")
    left, right = End(device, device.session(device.id)), End(device, device.session(device.id))
    join(left, right)
    run(device)

    for end in (left, right):
        assert end.closed is not None and end.closed.code == "self"
        assert len(end.frames) == 1


def test_a_copied_home_is_named_on_both_machines() -> None:
    here, there = Device("a"), Device("a", place=b"elsewhere")
    left, right = connect(here, there)
    run(here, there)

    for end in (left, right):
        assert end.closed is not None
        assert (end.closed.code, end.closed.permanent, end.closed.by_peer) == ("copied-home", True, False)
        assert "crdtlog join" in end.closed.hint


@pytest.mark.parametrize("told_by", ["hello", "ack", "entries"])
def test_a_file_restored_from_a_backup_is_found_out(told_by: str) -> None:
    device = Device("a")
    device.write()
    own = device.log.writer
    script = Script(device)

    if told_by == "hello":
        effects = script.say(replace(script.hello, heads={own: HeadSeen(2, bytes(8))}))
    elif told_by == "ack":
        effects = script.open().say(Ack(0, {own: 2}))
    else:
        effects = script.open().say(Entries((script.item(2, writer=own),)))

    close = closes(effects)
    assert (close.code, close.permanent, close.writer, close.seq) == ("restored", False, own, 2)


def test_a_peer_that_holds_an_entry_we_wrote_a_moment_ago_is_no_sign_of_a_backup() -> None:
    script = Script()
    script.device.log.append()
    script.session.appended(script.device.log.heads, NOW)

    script.open(
        heads={
            script.device.log.writer: HeadSeen(1, script.device.log.heads[script.device.log.writer].hash[:8])
        }
    )


def test_without_a_common_epoch_nobody_could_read_anything() -> None:
    script = Script()

    close = closes(script.say(replace(script.hello, epochs=(bytes(16),))))

    assert (close.code, close.permanent) == ("no-epoch", False)


def test_entries_are_sealed_under_the_deepest_epoch_that_both_hold() -> None:
    device = Device("a")
    device.write()
    used: list[bytes] = []

    def noting(signed: bytes, *, epoch_id: bytes, salt: bytes, binding: bytes) -> bytes:
        used.append(epoch_id)
        return seal(signed, epoch_id=epoch_id, salt=salt, binding=binding)

    deep, middle, old = (bytes([n]) * 16 for n in (3, 2, 1))
    script = Script()
    session = Session(device.local(epochs=(deep, middle, old)), script.id, noting, unseal, entropy)
    session.start(NOW)
    session.receive(messages.encode(replace(script.hello, epochs=(old, middle))), NOW)
    session.fetched(device.log.entries, 1, True, NOW)

    assert used == [middle]


# --- entries --------------------------------------------------------------------------------------------------


def test_a_write_is_pushed_at_once() -> None:
    a, b = Device("a"), Device("b")
    left, right = connect(a, b)
    run(a, b)
    before = len(left.frames)

    a.write(b"now")
    left.answer_fetch()
    right.deliver()
    right.answer_apply()
    left.deliver()

    assert b.log.vector == a.log.vector
    assert [type(messages.decode(frame)) for frame in left.frames[before:]] == [Entries]
    assert left.caught_up[-1] == right.caught_up[-1] == a.log.vector


def test_what_is_written_while_the_log_is_read_is_read_next() -> None:
    a, b = Device("a"), Device("b")
    left, _ = connect(a, b)
    run(a, b)
    a.write(b"one")
    found = a.log.after(left.take_fetch())
    a.write(b"two")

    left.perform(left.session.fetched(*found, NOW))

    assert left.fetch is not None and left.fetch.after_position == 1
    run(a, b)
    assert b.log.vector == a.log.vector


def test_an_entry_larger_than_the_window_travels_alone() -> None:
    a, b = Device("a"), Device("b")
    for size in (10, 10 * SMALL.window_bytes, 10):
        a.write(bytes(size))

    left, _ = connect(a, b)
    run(a, b)

    assert b.log.vector == a.log.vector
    batches = [m for m in map(messages.decode, left.frames) if isinstance(m, Entries)]
    assert [len(batch.items) for batch in batches] == [1, 1, 1]


def test_what_the_peer_cannot_take_in_one_frame_is_named() -> None:
    device = Device("a")
    device.write(bytes(5_000))
    script = Script(device)
    script.open(window=messages.Window(10_000, 10, 4_000))

    close = closes(script.session.fetched(device.log.entries, 1, True, NOW))

    assert (close.code, close.permanent, close.writer, close.seq) == ("too-large", True, device.log.writer, 1)


def test_entries_that_are_held_already_are_acknowledged_without_being_opened() -> None:
    script = Script().open()
    other = device_id("c") + b"writer 1"
    script.session.appended({other: Head(1, bytes(32))}, NOW)

    effects = script.say(Entries((Item(other, 1, b"never opened"),)))

    assert not any(isinstance(effect, Apply) for effect in effects)
    assert sent(effects) == [Ack(1, {other: 1})]


def test_what_another_session_brought_meanwhile_is_not_applied_again() -> None:
    script = Script().open()
    other = device_id("c") + b"writer 1"
    script.say(Entries((script.item(1, b"one"),)))
    script.say(Entries((script.item(1, b"from c", writer=other), script.item(2, b"two"))))

    script.session.appended({other: Head(1, bytes(32))}, NOW)
    effects = script.session.applied({script.writer: Head(1, bytes(32))}, NOW)

    assert Apply((b"two",), 3) in effects


def test_an_ack_repeats_nothing_that_the_peer_knows_us_to_hold() -> None:
    device = Device("a")
    script = Script(device).open()
    device.write()
    script.session.appended(device.log.heads, NOW)
    script.session.fetched(device.log.entries, 1, True, NOW)
    script.say(Entries((script.item(1),)))

    effects = script.session.applied({script.writer: Head(1, bytes(32))}, NOW)

    assert sent(effects) == [Ack(1, {script.writer: 1})]


def test_a_log_that_is_ahead_of_what_we_were_told_is_no_sign_of_a_backup() -> None:
    device = Device("a")
    device.write()
    script = Script(device).open()
    device.write(notify=False)

    script.session.fetched(device.log.entries, 2, True, NOW)

    assert script.say(Ack(1, {device.log.writer: 2})) == [Held({device.log.writer: 2}), CaughtUp()]


def test_nobody_is_caught_up_while_a_batch_is_under_way() -> None:
    device = Device("a")
    device.write()
    script = Script(device).open()
    script.session.fetched(device.log.entries, 1, True, NOW)

    early = script.say(Ack(0, {device.log.writer: 1}))

    assert early == [Held({device.log.writer: 1})]
    assert script.say(Ack(1, {})) == [CaughtUp()]


def test_batches_are_acknowledged_only_when_they_are_durable() -> None:
    script = Script().open()

    first = script.say(Entries((script.item(1, b"one"),)))
    second = script.say(Entries((script.item(2, b"two"),)))
    after = script.session.applied({script.writer: Head(1, bytes(32))}, NOW)

    assert first[-1] == Apply((b"one",), 3) and sent(first) == []
    assert second == [Held({script.writer: 2})]
    assert sent(after) == [Ack(1, {script.writer: 1})] and Apply((b"two",), 3) in after


def test_a_refused_entry_ends_the_session_on_both_sides_with_the_reason() -> None:
    a, b = Device("a"), Device("b")
    a.write()
    left, right = connect(a, b)
    left.deliver()
    right.deliver()
    left.answer_fetch()
    right.deliver()

    right.perform(right.session.refused("entry 1 has a bad signature", NOW))
    run(a)

    assert right.closed == Close("entry 1 has a bad signature", True, "entry-refused")
    assert left.closed == Close("entry 1 has a bad signature", True, "entry-refused", by_peer=True)


# --- time and endings -------------------------------------------------------------------------------------------


def test_a_silent_peer_is_asked_and_then_given_up() -> None:
    script = Script().open()
    limits = script.device.limits

    assert script.session.wake_at == NOW + limits.ping_after_s
    assert script.session.tick(NOW + 19) == []
    assert sent(script.session.tick(NOW + 20)) == [Ping()]
    assert script.session.tick(NOW + 59) == []
    assert script.session.wake_at == NOW + 60
    close = closes(script.session.tick(NOW + 60))

    assert (close.code, close.permanent) == ("silent", False)
    assert script.session.wake_at == float("inf")


def test_an_answer_keeps_the_session() -> None:
    script = Script().open()
    for minute in range(1, 10):
        now = NOW + 60 * minute
        assert sent(script.session.tick(now)) == [Ping()]
        assert script.say(Pong(), now) == []


def test_a_machine_that_slept_asks_before_it_gives_up() -> None:
    script = Script().open()

    assert sent(script.session.tick(NOW + 36_000)) == [Ping()]
    assert script.session.tick(NOW + 36_039) == []
    assert closes(script.session.tick(NOW + 36_040)).code == "silent"


def test_a_clock_set_back_does_not_stop_the_questions() -> None:
    script = Script().open()
    script.session.tick(NOW - 3_600)

    assert sent(script.session.tick(NOW - 3_580)) == [Ping()]


def test_a_peer_on_a_slow_line_has_longer_while_much_is_under_way() -> None:
    device = Device("a", limits=replace(SMALL, slowest_bytes_per_s=100))
    device.write(bytes(5_000))
    script = Script(device).open()
    script.session.fetched(device.log.entries, 1, True, NOW)
    script.session.tick(NOW + 20)

    assert script.session.tick(NOW + 100) == []
    assert closes(script.session.tick(NOW + 120)).code == "silent"


def test_a_peer_that_never_says_hello_is_given_up() -> None:
    script = Script()

    assert script.session.tick(NOW + 29) == []
    assert closes(script.session.tick(NOW + 30)).code == "silent"


def test_stop_tells_the_peer_that_it_may_come_back() -> None:
    a, b = Device("a"), Device("b")
    left, right = connect(a, b)
    run(a, b)

    left.perform(left.session.stop("The daemon is shutting down."))
    run(a, b)

    assert left.closed == Close("The daemon is shutting down.", False, "stopped")
    assert right.closed == Close("The daemon is shutting down.", False, "stopped", by_peer=True)


def test_after_the_end_nothing_has_effects() -> None:
    script = Script().open()
    session = script.session
    session.stop()

    assert script.say(Ping()) == session.tick(NOW + 1_000) == session.stop() == []
    assert session.fetched([], 0, True, NOW) == session.applied({}, NOW) == session.appended({}, NOW) == []
    assert session.refused("no", NOW) == []
