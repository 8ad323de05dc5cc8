"""The threat model's promises are tests: each row of its table names some, and those exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "threat-model.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
ATTACKERS = [
    "network",
    "relay",
    "stolen",
    "removed",
    "reader",
    "forge",
    "two histories",
    "clock",
    "huge",
    "deep",
    "bombs",
    "names",
    "guess",
    "replay",
    "rollback",
    "foreign",
    "expired",
    "look-alike",
    "user of the same machine",
]


def rows() -> list[list[str]]:
    """The cells of every row of the page's tables, without the headings."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in cells if row[0] not in ("attacker", "---")]


@cache
def names_in(path: Path) -> frozenset[str]:
    """The names of the test functions of a file."""
    tree = ast.parse(path.read_text("utf-8"))
    found = (node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(name for name in found if name.startswith("test_"))


def missing(text: str) -> list[str]:
    """Which of the tests that a text names do not exist."""
    found = []
    for path, name in NAMED.findall(text):
        file = ROOT / path
        if not file.is_file() or (name and name not in names_in(file)):
            found.append(f"{path}::{name}" if name else path)
    return found


def test_every_test_that_the_threat_model_names_exists() -> None:
    text = PAGE.read_text("utf-8")

    assert missing(text) == []
    # Nothing that looks like a test escapes the pattern above.
    assert len(NAMED.findall(text)) == text.count("`tests/")


def test_every_row_says_who_what_how_and_by_which_tests() -> None:
    assert rows()
    for row in rows():
        assert len(row) == 4 and all(row), row
        assert NAMED.search(row[3]), f"{row[0]}: no test is named"


@pytest.mark.parametrize("attacker", ATTACKERS)
def test_every_attacker_has_a_row(attacker: str) -> None:
    assert any(attacker in " ".join(row[:2]).lower() for row in rows())


def test_a_test_that_does_not_exist_is_found() -> None:
    own = "tests/test_threat_model.py"
    text = f"`{own}::test_a_test_that_does_not_exist_is_found`, `{own}`"

    assert missing(text) == []
    assert missing(f"{text}, `{own}::test_unheard_of`, `tests/none.py::test_x`") == [
        f"{own}::test_unheard_of",
        "tests/none.py::test_x",
    ]
