"""The command line gives a row as a Yjs document: to a person, to a file, to a program."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pycrdt import Doc, Map

from tests.peers.cli_reference import documented
from tests.peers.cli_world import ROOT, TIMEOUT_S, Crdtlog, assert_an_error, program, write

SEEN = {"id": "a", "title": "Milk", "size": 1.5, "picture": {"hex": "00ff"}}


def row_in(data: bytes) -> Any:
    doc: Doc[Any] = Doc()
    doc.apply_update(data)
    return doc.get("row", type=Map).to_py()


def test_a_terminal_shows_it_as_json(shared: Path, crdtlog: Crdtlog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peers.cli.doc.is_terminal", lambda stream: True)

    shown = crdtlog("doc", shared, "notes", "a").out

    assert json.loads(shown) == {"row": SEEN}
    assert shown.splitlines()[:3] == ["{", '  "row": {', '    "id": "a",']


def test_what_a_terminal_shows_cannot_move_its_cursor_and_is_still_json(
    shared: Path, crdtlog: Crdtlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peers.cli.doc.is_terminal", lambda stream: True)
    evil = "\x1b[2J\x9b1A\u202e日本\U000e0001 \r\n\x7f"
    write(shared, f"UPDATE notes SET title = CAST(x'{evil.encode().hex()}' AS TEXT) WHERE id = 'a'")

    shown = crdtlog("doc", shared, "notes", "a").out

    assert json.loads(shown)["row"]["title"] == evil
    assert all(character == "\n" or character.isprintable() for character in shown)
    assert "日本" in shown


def test_a_pipe_gets_the_bytes(shared: Path, crdtlog: Crdtlog) -> None:
    process = program("doc", shared, "notes", "a")
    assert process.stdout is not None
    data = process.stdout.buffer.read()
    assert process.wait(TIMEOUT_S) == 0
    process.communicate()

    assert row_in(data) == {"id": "a", "title": "Milk", "size": 1.5, "picture": b"\0\xff"}


def test_a_file_gets_the_bytes(shared: Path, tmp_path: Path, crdtlog: Crdtlog) -> None:
    out = tmp_path / "a.yjs"
    write(shared, "UPDATE notes SET title = 'new' WHERE id = 'a'")

    done = crdtlog("doc", shared, "notes", "a", "--output", out)

    assert row_in(out.read_bytes())["title"] == "new"
    assert done.out == "" and done.err == f"Wrote {out.stat().st_size} bytes to {out}.\n"


def test_json_has_the_shape_of_the_reference(shared: Path, tmp_path: Path, crdtlog: Crdtlog) -> None:
    out = tmp_path / "a.yjs"

    answer = crdtlog("doc", shared, "notes", "a", "--json", "--output", out).json

    assert answer == {"v": 1, "doc": {"row": SEEN}}
    assert set(answer["doc"]) == set(documented("doc")["doc"]) == {"row"}
    assert row_in(out.read_bytes())["title"] == "Milk"
    assert crdtlog("doc", shared, "notes", "b", "--json").json["doc"]["row"]["size"] == {"real": "inf"}


def test_mergeable_columns_show_what_is_in_them(shared: Path, crdtlog: Crdtlog) -> None:
    deep = '{"a":' * 100 + "12345678901234567890" + "}" * 100
    write(shared, f"UPDATE notes SET title = '{deep}' WHERE id = 'a'")
    crdtlog("track", shared, "notes", "--merge", "title=json")

    node = crdtlog("doc", shared, "notes", "a", "--json").json["doc"]["row"]["title"]
    for _ in range(100):
        node = node["a"]

    assert node == {"integer": "12345678901234567890"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["tags", "a"], 1, ["No tracked table 'tags'"]),
        (["notes", "c"], 1, ["no row 'c' of table notes"]),
        (["notes"], 2, ["Missing argument 'KEY'"]),
        (["notes", "a", "--output", "missing/a.yjs"], 1, ["missing/a.yjs", "No such file"]),
    ],
)
def test_what_is_not_there_is_an_error(
    shared: Path, crdtlog: Crdtlog, arguments: list[str], code: int, words: list[str]
) -> None:
    assert_an_error(crdtlog("doc", shared, *arguments, fails=code), *words)


def test_a_deleted_row_is_an_error_that_tells_where_to_look(shared: Path, crdtlog: Crdtlog) -> None:
    write(shared, "DELETE FROM notes WHERE id = 'a'")

    assert_an_error(crdtlog("doc", shared, "notes", "a", fails=1), "not there now", "crdtlog history")


def test_the_database_is_not_overwritten_with_a_document(shared: Path, crdtlog: Crdtlog) -> None:
    assert_an_error(crdtlog("doc", shared, "notes", "a", "--output", shared, fails=2), "the database itself")
    assert crdtlog("verify", shared).code == 0


def test_a_document_is_given_without_loading_pycrdt(shared: Path) -> None:
    code = (
        "import sys; from peers.cli import run; "
        f"run(['doc', {str(shared)!r}, 'notes', 'a', '--json']); sys.exit('pycrdt' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=TIMEOUT_S)
