"""Texts merge by characters: what different people wrote in different places all stands, on every device alike."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog.errors import Malformed, TooLarge
from crdtlog.kinds import text, yjs
from crdtlog.kinds.text import TextBase, is_mergeable
from crdtlog.kinds.textdoc import Texts, Unreadable
from tests.crdtlog import poison

BEGUN = (b"b" * 24, 7)
WRITERS = [bytes([65 + n]) * 24 for n in range(3)]
A, B, C = WRITERS
ODD = "ab \n\r\t\0é\u0301\u200d\U0001f600"
odd_texts = st.text(alphabet=ODD, max_size=12)


def shown(base: TextBase) -> str:
    return Texts().open(BEGUN, base)[1]


def edited(base: TextBase, writer: bytes, value: str) -> tuple[bytes, bytes]:
    """The patch and the new state, by a worker that has never seen the text."""
    return Texts().edit(BEGUN, base, writer, value)


def merged(base: TextBase, *patches: tuple[bytes, bytes]) -> bytes:
    """The state after patches, none of which is refused."""
    state, _, refused = Texts().merge(BEGUN, base, patches)
    assert not refused
    assert state is not None
    return state


def meet(base: str, *values: tuple[bytes, str]) -> str:
    """What a text becomes when each writer changed it without knowing of the others: the same in every order."""
    patches = [(writer, edited(base, writer, value)[0]) for writer, value in values]
    there = shown(merged(base, *patches))
    assert shown(merged(base, *reversed(patches))) == there
    return there


# --- intent -----------------------------------------------------------------------------------------------------------


def test_edits_in_different_places_both_stand() -> None:
    assert (
        meet("milk, bread and eggs", (A, "oat milk, bread and eggs"), (B, "milk, bread and ten eggs"))
        == "oat milk, bread and ten eggs"
    )


def test_insertions_in_one_place_stand_unmixed() -> None:
    both = meet("Shopping: .", (A, "Shopping: apples and pears."), (B, "Shopping: soap, towels."))

    assert both in ("Shopping: apples and pearssoap, towels.", "Shopping: soap, towelsapples and pears.")


def test_lines_added_in_one_place_stay_whole() -> None:
    both = meet("one\ntwo\n", (A, "one\ntwo\nthree\n"), (B, "one\ntwo\nfour\n"), (C, "zero\none\ntwo\n"))

    assert both in ("zero\none\ntwo\nthree\nfour\n", "zero\none\ntwo\nfour\nthree\n")


def test_what_one_deletes_and_another_changes_nearby() -> None:
    assert meet("one two three four", (A, "one four"), (B, "one two three four five")) == "one four five"


def test_deleting_the_same_words_deletes_them_once() -> None:
    assert meet("keep this not that", (A, "keep that"), (B, "keep that")) == "keep that"


def test_emoji_survive_on_both_sides() -> None:
    assert meet("\U0001f600\U0001f601", (A, "\U0001f600x\U0001f601"), (B, "\U0001f601")) == "x\U0001f601"


# --- convergence ------------------------------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> tuple[str, list[tuple[bytes, bytes, frozenset[int]]]]:
    """A text, and patches that writers made who now and then heard of one another: writer, patch, what it builds on."""
    base = draw(odd_texts)
    states: dict[bytes, TextBase] = dict.fromkeys(WRITERS, base)
    heard: dict[bytes, frozenset[int]] = dict.fromkeys(WRITERS, frozenset())
    patches: list[tuple[bytes, bytes, frozenset[int]]] = []
    for _ in range(draw(st.integers(1, 8))):
        writer = draw(st.sampled_from(WRITERS))
        if patches and draw(st.booleans()):
            news = draw(st.integers(0, len(patches) - 1))
            for at in [*sorted(patches[news][2]), news]:
                if at not in heard[writer]:
                    states[writer] = merged(states[writer], patches[at][:2])
                    heard[writer] |= {at}
            continue
        was = shown(states[writer])
        first, last = sorted([draw(st.integers(0, len(was))), draw(st.integers(0, len(was)))])
        patch, states[writer] = edited(states[writer], writer, was[:first] + draw(odd_texts) + was[last:])
        if patch:
            patches.append((writer, patch, heard[writer]))
            heard[writer] |= {len(patches) - 1}
    return base, patches


@given(histories(), st.data())
def test_every_causal_order_shows_the_same(
    history: tuple[str, list[tuple[bytes, bytes, frozenset[int]]]], choose: st.DataObject
) -> None:
    base, patches = history
    expected = shown(merged(base, *(patch[:2] for patch in patches))) if patches else base
    left, done = set(range(len(patches))), set[int]()
    state: TextBase = base
    texts = Texts()
    while left:
        at = choose.draw(st.sampled_from([at for at in sorted(left) if patches[at][2] <= done]))
        left.remove(at)
        done.add(at)
        after, text, refused = texts.merge(BEGUN, state, [patches[at][:2]])
        assert not refused
        assert after is not None
        assert text is not None
        state = after
        assert text.decode() == shown(state)

    assert shown(state) == expected


@given(odd_texts, st.lists(odd_texts, max_size=5))
def test_an_edit_shows_what_was_written(base: str, values: list[str]) -> None:
    """And so it does elsewhere, whether the worker knew the text already or not."""
    texts = Texts()
    mine: TextBase = base
    theirs: TextBase = base
    for value in values:
        patch, mine = texts.edit(BEGUN, mine, A, value)
        assert shown(mine) == value
        if patch:
            theirs = merged(theirs, (A, patch))
        assert shown(theirs) == value


@given(st.text(max_size=30))
def test_nothing_changed_is_no_patch(value: str) -> None:
    patch, state = edited(value, A, value)

    assert patch == b""
    assert edited(state, B, value) == (b"", state)


# --- beginnings -------------------------------------------------------------------------------------------------------


def test_every_device_begins_with_the_same_bytes() -> None:
    """Part of the format: patches name the characters of the beginning."""
    state = "01018d92c5b5cdbd940900040104746578740b68c3a96c6c6f20f09f988000"

    assert Texts().open(BEGUN, "héllo \U0001f600")[0].hex() == state


@given(st.text(max_size=30))
def test_a_beginning_shows_its_value(value: str) -> None:
    state, text = Texts().open(BEGUN, value)

    assert text == value
    assert Texts().open(BEGUN, state) == (state, value)


def test_patches_made_from_a_value_and_from_its_state_are_the_same() -> None:
    state, _ = Texts().open(BEGUN, "a beginning")

    assert edited("a beginning", A, "a new beginning") == edited(state, A, "a new beginning")


def test_a_patch_belongs_to_one_document() -> None:
    patch, _ = edited("text", A, "text!")

    _, _, refused = Texts().merge((b"b" * 24, 8), "text", [(A, patch)])

    assert refused[0].reason == "malformed"


@pytest.mark.parametrize(
    ("value", "mergeable"),
    [
        ("", True),
        ("text", True),
        ("nul \0 and \U0001f600", True),
        ("\udcff not UTF-8", False),
        ("\ud800", False),
        (None, False),
        (1, False),
        (1.5, False),
        (b"blob", False),
        ("x" * text.MAX_TEXT_BYTES, True),
        ("x" * (text.MAX_TEXT_BYTES + 1), False),
        ("é" * (text.MAX_TEXT_BYTES // 2 + 1), False),
    ],
    ids=str,
)
def test_what_has_a_mergeable_form(value: text.Value, mergeable: bool) -> None:
    assert is_mergeable(value) is mergeable


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_nobody_edits_as_another() -> None:
    patch, _ = edited("text", A, "text!")

    _, _, refused = Texts().merge(BEGUN, "text", [(B, patch)])

    assert refused[0].reason == "malformed"


def test_a_patch_counts_once() -> None:
    patch, state = edited("text", A, "text!")

    _, _, refused = Texts().merge(BEGUN, state, [(A, patch)])

    assert refused[0].reason == "malformed"


def test_a_patch_that_builds_on_a_missing_one_says_so() -> None:
    first, state = edited("text", A, "text, more")
    own, after = edited(state, A, "text, more and more")
    others, _ = edited(after, B, "text, more or less")

    _, shown, refused = Texts().merge(BEGUN, "text", [(B, others), (A, own), (A, own)])
    assert {at: why.reason for at, why in refused.items()} == dict.fromkeys(range(3), "missing")
    assert shown is None

    _, shown, refused = Texts().merge(BEGUN, "text", [(B, others), (A, first), (A, own)])
    assert not refused
    assert shown == b"text, more or less"


def test_which_patches_count_does_not_depend_on_the_order_they_come_in() -> None:
    """Three liars write patches that build on one another's, that leave gaps, that repeat, that are none."""
    choose = random.Random(5)
    left = 0
    for _ in range(150):
        logs = {writer: lies(choose, writer) for writer in (A, B, C)}
        together = Texts().merge(
            BEGUN, "text", [(w, patch) for w, patches in logs.items() for patch in patches]
        )
        left += len(together[2])
        for _ in range(3):
            assert one_after_another(choose, logs) == (together[1] or b"text", len(together[2]))
    assert left > 300


def lies(choose: random.Random, writer: bytes) -> list[bytes]:
    """Patches by one writer, beside characters of others that may not be there."""
    clients = [yjs.edit_client(BEGUN, other) for other in (A, B, C)]
    own = yjs.edit_client(BEGUN, writer)
    patches = []
    clock = 0
    for _ in range(choose.randrange(5)):
        named = choose.choice([None, (choose.choice(clients), choose.randrange(4))])
        left = named if named is None or named[0] != own else None
        at = max(0, clock + choose.choice([0, 0, 0, 0, -2, 1]))
        item = poison.string("ab", left or (yjs.start_client(BEGUN), 1))
        patches.append(choose.choice([b"junk", *[poison.update(item, client=own, clock=at)] * 9]))
        clock = at + 2
    return patches


def one_after_another(choose: random.Random, logs: dict[bytes, list[bytes]]) -> tuple[bytes, int]:
    """The text, and how many patches are left out of it, when patches come one by one with those left out so far."""
    order = [writer for writer, patches in logs.items() for _ in patches]
    choose.shuffle(order)
    waiting = {writer: iter(patches) for writer, patches in logs.items()}
    base: TextBase = "text"
    shown: bytes | None = None
    aside: list[tuple[bytes, bytes]] = []
    for writer in order:
        aside.append((writer, next(waiting[writer])))
        state, text, refused = Texts().merge(BEGUN, base, aside)
        base, shown = (base, shown) if state is None else (state, text)
        aside = [aside[at] for at in sorted(refused)]
    return shown or b"text", len(aside)


def test_a_patch_that_stands_in_senseless_places_is_refused() -> None:
    """Both neighbours of an inserted string are the same: what it shows is another text once it was stored."""
    start = yjs.start_client(BEGUN)
    senseless = poison.update(poison.string("\0", (start, 1), (start, 1)), client=yjs.edit_client(BEGUN, A))

    with pytest.raises(Malformed, match="reads otherwise"):
        Texts().merge(BEGUN, "hello", [(A, senseless)])


def test_a_state_that_is_none_is_nobodys_fault() -> None:
    with pytest.raises(Unreadable):
        Texts().merge(BEGUN, b"junk", [(A, edited("text", A, "text!")[0])])


def test_a_text_that_is_too_long_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crdtlog.kinds.textdoc.MAX_TEXT_BYTES", 10)

    with pytest.raises(TooLarge):
        edited("short", A, "eleven byte")


def test_patches_cannot_make_a_text_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crdtlog.kinds.textdoc.MAX_MERGED_BYTES", 10)

    with pytest.raises(TooLarge):
        merged("short", (A, edited("short", A, "eleven byte")[0]))


# --- size -------------------------------------------------------------------------------------------------------------


def test_a_small_edit_is_a_small_patch_whatever_was_before() -> None:
    """It says what it deleted itself, not what everybody ever did."""
    choose = random.Random(1)
    words = [f"word{n}" for n in range(200)]
    texts = Texts()
    state: TextBase = " ".join(words)
    for _ in range(200):
        words[choose.randrange(200)] = f"other{choose.randrange(1000)}"
        _, state = texts.edit(BEGUN, state, A, " ".join(words))
    words[50] += "!"
    words[150] = ""

    patch, _ = texts.edit(BEGUN, state, A, " ".join(words))

    assert len(patch) < 100


def rewritten(times: int) -> tuple[str, bytes]:
    choose = random.Random(1)
    texts = Texts()
    value, state = "", b"\0\0"
    for _ in range(times):
        value = " ".join("".join(choose.choices("abcdefghij", k=6)) for _ in range(30))
        _, state = texts.edit(BEGUN, state, A, value)
    return value, state


def test_rewriting_a_text_leaves_nothing_of_the_old_ones() -> None:
    value, state = rewritten(200)

    assert shown(state) == value
    assert len(state) < len(value) + 200


@pytest.mark.slow
def test_rewriting_a_text_ten_thousand_times_leaves_nothing_of_the_old_ones() -> None:
    value, state = rewritten(10_000)

    assert shown(state) == value
    assert len(state) < 2 * len(value)


def test_typing_is_one_run_of_text() -> None:
    texts = Texts()
    typed, state = "", b"\0\0"
    for letter in "a sentence that somebody types while their program saves after every letter":
        typed += letter
        _, state = texts.edit(BEGUN, state, A, typed)

    assert len(state) < len(typed) + 40


def test_a_text_changed_everywhere_is_one_patch_of_bounded_size() -> None:
    old = "".join(f"line {n}\n" for n in range(5_000))
    new = "".join(f"line {n}{'!' if n % 2 else ''}\n" for n in range(5_000))

    patch, state = edited(old, A, new)

    assert shown(merged(old, (A, patch))) == new == shown(state)
    assert len(patch) < 3 * len(new)


def test_a_state_is_a_yjs_update() -> None:
    """Its layout is fixed by Yjs: one client with one item, in the root `text`, and no deletions."""
    state, _ = Texts().open(BEGUN, "hi")

    assert state == poison.update(poison.string("hi"), client=yjs.start_client(BEGUN))
