"""A patch is read before the library sees it: what honest edits say passes, everything else is refused at once."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog.errors import Malformed
from crdtlog.kinds import yjs
from crdtlog.kinds.textdoc import Texts
from crdtlog.kinds.yjs import Patch, check_present, read_patch
from tests.crdtlog import poison
from tests.crdtlog.poison import ROOT, deletions, number, string, text, update

BEGUN = (b"b" * 24, 7)
WRITER = b"w" * 24
ME, OTHER = 77, 5


def test_client_numbers_are_the_same_on_every_device() -> None:
    """Part of the format: other devices' items are named by them."""
    assert yjs.start_client(BEGUN) == 5156627236866317
    assert yjs.edit_client(BEGUN, WRITER) == 7562531947955851


@given(st.binary(min_size=24, max_size=24), st.integers(0, 1 << 62), st.binary(min_size=24, max_size=24))
def test_no_two_clients_share_a_number(begun_by: bytes, seq: int, writer: bytes) -> None:
    begun = (begun_by, seq)
    numbers = {
        yjs.start_client(begun),
        yjs.start_client((begun_by, seq + 1)),
        yjs.edit_client(begun, writer),
        yjs.edit_client((begun_by, seq + 1), writer),
        yjs.edit_client(begun, writer[:-1] + bytes([writer[-1] ^ 1])),
    }

    assert len(numbers) == 5
    assert all(0 < number < 1 << 53 for number in numbers)


def test_what_an_edit_says() -> None:
    patch = update(
        string("ab\U0001f600", (OTHER, 8), (OTHER, 9)),
        string("é", (ME, 13)),
        client=ME,
        clock=10,
        deleted=deletions({OTHER: [(2, 3), (5, 15)], 6: [(0, 1)], ME: [(0, 4)]}),
    )

    assert read_patch(patch, ME) == Patch(ME, 10, 5, {OTHER: 20, 6: 1})


def test_an_edit_that_only_deletes() -> None:
    assert read_patch(b"\0" + deletions({ME: [(3, 4)]}), ME) == Patch(ME, 0, 0, {ME: 7})


@pytest.mark.parametrize(
    ("patch", "clocks", "why"),
    [
        (Patch(ME, 4, 2, {OTHER: 3}), {ME: 4, OTHER: 3}, ""),
        (Patch(ME, 0, 2, {}), {}, ""),
        (Patch(ME, 0, 0, {OTHER: 3}), {ME: 4, OTHER: 9}, ""),
        (Patch(ME, 3, 2, {}), {ME: 4}, "repeated"),
        (Patch(ME, 5, 2, {}), {ME: 4}, "missing"),
        (Patch(ME, 4, 2, {OTHER: 4}), {ME: 4, OTHER: 3}, "missing"),
        (Patch(ME, 0, 0, {OTHER: 1}), {}, "missing"),
    ],
)
def test_a_patch_follows_on_what_is_there(patch: Patch, clocks: dict[int, int], why: str) -> None:
    assert check_present(patch, clocks) == why


DISHONEST = {
    "nothing at all": b"",
    "another author's items": update(string("a"), client=OTHER),
    "items of two authors": b"\2"
    + update(string("a"), client=ME)[1:]
    + update(string("b"), client=OTHER)[1:],
    "no items": update(client=ME),
    "an empty string": update(string(""), client=ME),
    "another root": update(b"\4\1" + text("title") + text("a"), client=ME),
    "inside another item": update(b"\4\0" + number(OTHER) + number(1) + text("a"), client=ME),
    "under a key": update(b"\x24" + ROOT + text("key") + text("a"), client=ME),
    "a hole": update(b"\x0a\5", client=ME),
    "collected items": update(b"\0\5", client=ME),
    "deleted items": update(b"\1" + ROOT + b"\5", client=ME),
    "formatting": update(b"\6" + ROOT + text("b") + text("true"), client=ME),
    "an embedded value": update(b"\5" + ROOT + text("[]"), client=ME),
    "an array": update(b"\7" + ROOT + b"\0", client=ME),
    "any value": update(b"\x08" + ROOT + b"\1\x7f", client=ME),
    "a document in the document": update(b"\x09" + ROOT + text("guid") + b"\x76\0", client=ME),
    "text that is not UTF-8": update(b"\4" + ROOT + b"\2\xff\xff", client=ME),
    "half a character": update(b"\4" + ROOT + b"\3\xed\xa0\x80", client=ME),
    "an item beside itself": update(string("a", (ME, 0)), client=ME),
    "an item beside a later one": update(string("a", (ME, 9)), client=ME, clock=3),
    "numbers that overflow": update(string("ab"), client=ME, clock=(1 << 31) - 2),
    "deletions out of order": b"\0" + deletions({OTHER: [(5, 2), (1, 2)]}),
    "deletions that overlap": b"\0" + deletions({OTHER: [(1, 5), (4, 2)]}),
    "an empty deletion": b"\0" + deletions({OTHER: [(1, 0)]}),
    "a client without deletions": b"\0" + deletions({OTHER: []}),
    "a client's deletions twice": b"\0\2\5\1\0\1\5\1\2\1",
    "deleting what was not written yet": update(string("ab"), client=ME, deleted=deletions({ME: [(0, 3)]})),
    "something behind the end": update(string("a"), client=ME) + b"\0",
    "a number without end": b"\x80" * 20,
}


@pytest.mark.parametrize("case", DISHONEST)
def test_what_no_honest_edit_says_is_refused(case: str) -> None:
    with pytest.raises(Malformed):
        read_patch(DISHONEST[case], ME)


@pytest.mark.parametrize("name", [p.name for p in poison.poisons()])
def test_everything_that_ever_hurt_the_library_is_refused(name: str) -> None:
    """As whoever wrote it, it says what no honest edit says, or builds on what is not there."""
    (spoiled,) = (p for p in poison.poisons() if p.name == name)

    for client in (1, 2, 3, 4, 77):
        try:
            patch = read_patch(spoiled.patch, client)
        except Malformed:
            continue
        assert check_present(patch, {}) or not patch.length


def test_a_broken_off_patch_is_refused() -> None:
    whole = update(string("ab", (OTHER, 8), (OTHER, 9)), client=ME, deleted=deletions({OTHER: [(200, 300)]}))

    for end in range(len(whole)):
        with pytest.raises(Malformed):
            read_patch(whole[:end], ME)


@given(st.one_of(st.binary(max_size=60), st.randoms(use_true_random=False).map(poison.random_update)))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        patch = read_patch(data, ME)
    except Malformed:
        return
    assert patch.client == ME


def test_claims_of_size_cost_nothing() -> None:
    began = time.process_time()
    for data in (
        number(1 << 60),
        b"\1" + number(1 << 60) + b"\x4d\0",
        update(b"\4" + ROOT + number(1 << 60) + b"a", client=ME),
        b"\0" + number(1 << 60),
        b"\0\1\5" + number(1 << 60),
    ):
        with pytest.raises(Malformed):
            read_patch(data, ME)

    assert time.process_time() - began < 1.0


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_honest_patches_are_read(first: str, second: str, third: str) -> None:
    texts = Texts()
    one, state = texts.edit(BEGUN, first, WRITER, second)
    two, _ = texts.edit(BEGUN, state, b"v" * 24, third)

    for patch, writer in ((one, WRITER), (two, b"v" * 24)):
        if patch:
            assert read_patch(patch, yjs.edit_client(BEGUN, writer)).clock == 0


def test_plausible_patches_are_let_through() -> None:
    """Otherwise the tests that try them on the library would try nothing."""
    choose = random.Random(1)
    for _ in range(200):
        clocks = {1: 17, 2: 3}
        patch = read_patch(poison.plausible_patch(choose, 2, clocks), 2)
        assert check_present(patch, clocks) == ""
