"""Splices say exactly what changed, say it as a person would, and never cost more than they may."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog.kinds.textdiff import MAX_SPLICES, Splice, Steps, apply, common_prefix, common_suffix, splices

# Few characters, so that random texts have much in common; those that programs get wrong are among them.
ODD = "ab \n\r\t\0é\u0301\u200d\U0001f600\U0001f468\u2028"
texts = st.one_of(st.text(alphabet=ODD, max_size=60), st.text(max_size=30))


@st.composite
def edited(draw: st.DrawFn) -> tuple[str, str]:
    """A text, and the same text after a few edits in different places."""
    old = draw(
        st.lists(
            st.sampled_from(["one line\n", "another line\r\n", "x", "é\u0301", "\U0001f600 ", "\0"]),
            max_size=40,
        )
    )
    new = list(old)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(new)))
        new[at : at + draw(st.integers(0, 3))] = [draw(texts)]
    return "".join(old), "".join(new)


@given(texts, texts)
def test_any_text_becomes_any_other(old: str, new: str) -> None:
    assert apply(old, splices(old, new)) == new


@given(edited())
def test_splices_are_in_order_and_apart(pair: tuple[str, str]) -> None:
    old, new = pair
    found = splices(old, new)

    assert apply(old, found) == new
    end = -1
    for position, deleted, inserted in found:
        assert position > end, "two splices touch"
        assert deleted or inserted
        end = position + deleted
    assert end <= len(old)


@given(edited(), st.integers(1, 3))
def test_fewer_splices_say_the_same(pair: tuple[str, str], most: int) -> None:
    old, new = pair
    found = splices(old, new, most=most)

    assert len(found) <= most
    assert apply(old, found) == new


@given(st.text(alphabet=ODD, max_size=300), texts, texts)
def test_common_ends_are_what_a_loop_would_find(same: str, x: str, y: str) -> None:
    prefix = suffix = 0
    for a, b in zip(same + x, same + y, strict=False):
        if a != b:
            break
        prefix += 1
    for a, b in zip(reversed(x + same), reversed(y + same), strict=False):
        if a != b:
            break
        suffix += 1

    assert common_prefix(same + x, same + y) == prefix
    assert common_suffix(x + same, y + same) == suffix


def test_nothing_changed() -> None:
    assert splices("same", "same") == []
    assert splices("", "") == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "new", [Splice(0, 0, "new")]),
        ("old", "", [Splice(0, 3, "")]),
        ("milk and bread", "milk, eggs and bread", [Splice(4, 0, ", eggs")]),
        ("hello world", "hello big world", [Splice(6, 0, "big ")]),
        # Both ends of a text at once.
        ("the quick brown fox", "a slow brown dog", [Splice(0, 9, "a slow"), Splice(16, 3, "dog")]),
        # Letters that two different words happen to share do not tie them together.
        ("I like summer", "I like autumn", [Splice(7, 6, "autumn")]),
        # A new line is that line, not the end of one and the beginning of the next.
        ("x\nab\nac\n", "x\nab\naz\nac\n", [Splice(5, 0, "az\n")]),
        ("x\nab\naz\nac\n", "x\nab\nac\n", [Splice(5, 3, "")]),
        # An emoji is one character; a family of them, several.
        ("a\U0001f600b", "a\U0001f601b", [Splice(1, 1, "\U0001f601")]),
        ("e\u0301", "e\u0300", [Splice(1, 1, "\u0300")]),
        ("a\0b", "a\0\0b", [Splice(2, 0, "\0")]),
        ("one\r\ntwo\r\n", "one\ntwo\r\n", [Splice(3, 1, "")]),
    ],
)  # fmt: skip
def test_a_person_would_say_the_same(old: str, new: str, expected: list[Splice]) -> None:
    assert splices(old, new) == expected


def prose(seed: int, lines: int, end: str = "\n") -> str:
    choose = random.Random(seed)
    words = ["".join(choose.choices("abcdefghij", k=choose.randint(2, 9))) for _ in range(500)]
    return "".join(" ".join(choose.choices(words, k=9)) + end for _ in range(lines))


def scattered(text: str, changes: int) -> str:
    choose = random.Random(7)
    letters = list(text)
    for at in choose.sample(range(len(letters)), changes):
        letters[at] = "ÄÖÜ"[at % 3]
    return "".join(letters)


@pytest.mark.parametrize("end", ["\n", " "])
def test_scattered_changes_of_a_large_text_stay_small(end: str) -> None:
    old = prose(1, 5_000, end)

    found = splices(old, scattered(old, 40))

    assert sum(len(splice.inserted) for splice in found) < 400


def test_a_small_edit_of_a_large_text_takes_no_more_steps_than_one_of_a_small_text() -> None:
    steps = []
    for lines in (20, 20_000):
        old = prose(2, lines)
        middle = len(old) // 2
        counted = Steps()
        splices(old, old[:middle] + "an edit" + old[middle + 3 :], steps=counted)
        steps.append(counted.taken)

    assert steps[1] < steps[0] + 200


def shuffled(text: str) -> str:
    lines = text.splitlines(keepends=True)
    random.Random(1).shuffle(lines)
    return "".join(lines)


COSTLY = {
    "nothing in common": ("ab" * 150_000, "cd" * 150_000),
    "all alike, shifted": ("ab" * 150_000, "ba" * 149_000 + "x" + "ba" * 500),
    "lines in another order": (prose(3, 8_000), shuffled(prose(3, 8_000))),
    "one line many times": ("x\n" * 100_000, "x\ny\n" * 40_000),
    "random letters": (
        "".join(random.Random(1).choices("ab \n", k=300_000)),
        "".join(random.Random(2).choices("ab \n", k=300_000)),
    ),
    "changed everywhere": (prose(4, 5_000), scattered(prose(4, 5_000), 20_000)),
    "only line ends": ("\n" * 600_000 + "a", "b" + "\n" * 600_000 + "c"),
}  # fmt: skip


@pytest.mark.parametrize("case", COSTLY)
def test_cost_is_bounded(case: str) -> None:
    """Counted in turns of loops: beside a few passes over the tokens, no more than allowed."""
    old, new = COSTLY[case]
    steps = Steps(100_000)

    found = splices(old, new, steps=steps)

    assert apply(old, found) == new
    assert len(found) <= MAX_SPLICES
    assert steps.taken <= steps.limit + 2 * (len(old) + len(new))


def test_running_out_of_steps_makes_the_answer_coarser_not_wrong() -> None:
    old = prose(5, 200)
    new = scattered(old, 60)

    for limit in (0, 1, 100, 1_000, 10_000):
        assert apply(old, splices(old, new, steps=Steps(limit))) == new
