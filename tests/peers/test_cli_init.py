"""`crdtlog init` and `crdtlog track`: what is replicated, what is left out and why, and what is refused untouched."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.cli_reference import assert_shape, documented
from tests.peers.cli_world import NOTES, Crdtlog, assert_an_error, made, write

# --- init ---------------------------------------------------------------------------------------------------------


def test_init_tracks_what_can_be_tracked_and_says_what_not(tmp_path: Path, crdtlog: Crdtlog) -> None:
    file = made(
        tmp_path / "notes.db", NOTES + 'CREATE TABLE cache (x); CREATE TABLE "my tags" (t TEXT PRIMARY KEY);'
    )

    done = crdtlog("init", file, "--device", "laptop")

    assert re.search(r"^notes +tracked +id$", done.out, re.MULTILINE)
    assert re.search(r"^my tags +tracked +t$", done.out, re.MULTILINE)
    assert re.search(r"^cache +left out +it has no declared primary key$", done.out, re.MULTILINE)
    assert "journal mode delete to WAL" in done.err
    assert "this device is laptop" in done.err
    assert "Warning" not in done.err


def test_init_has_the_documented_shape(tmp_path: Path, crdtlog: Crdtlog) -> None:
    file = made(tmp_path / "notes.db", "CREATE TABLE notes (id INTEGER PRIMARY KEY); CREATE TABLE cache (x);")

    answer = crdtlog("init", file, "--json").json

    assert_shape(answer, documented("init"))
    assert answer["init"]["tracked"] == ["notes"]
    assert answer["init"]["skipped"] == [{"name": "cache", "why": "it has no declared primary key"}]


def test_init_warns_of_numbered_rows_and_recommends_keys(tmp_path: Path, crdtlog: Crdtlog) -> None:
    file = made(tmp_path / "notes.db", "CREATE TABLE notes (id INTEGER PRIMARY KEY, body)")

    done = crdtlog("init", file)

    assert "two rows merge into one" in done.err
    assert "kept as conflicts" in done.err
    assert "DEFAULT (lower(hex(randomblob(16))))" in done.err


def test_init_tracks_all_of_chinook(chinook: Path, crdtlog: Crdtlog) -> None:
    answer = crdtlog("init", chinook, "--json").json["init"]

    assert len(answer["tracked"]) == 11
    assert answer["skipped"] == []
    assert "Artist" in answer["warnings"][0] and "PlaylistTrack" not in answer["warnings"][0]
    assert crdtlog("check", chinook, "--json").json["ok"]


@pytest.mark.parametrize("more", [["--track", "NOTES", "--track", "tags"], ["--track", "notes", "tags"]])
def test_init_tracks_only_the_tables_asked_for(tmp_path: Path, crdtlog: Crdtlog, more: list[str]) -> None:
    tables = "".join(f"CREATE TABLE {name} (id TEXT PRIMARY KEY);" for name in ("notes", "tags", "other"))
    file = made(tmp_path / "notes.db", tables)

    answer = crdtlog("init", file, "--json", *more).json["init"]

    assert answer["tracked"] == ["notes", "tags"]
    assert [item["name"] for item in answer["skipped"]] == ["other"]


def test_init_again_tracks_what_was_added(shared: Path, crdtlog: Crdtlog) -> None:
    write(shared, "CREATE TABLE tags (id TEXT PRIMARY KEY)")

    done = crdtlog("init", shared)

    assert re.search(r"^tags +tracked +id$", done.out, re.MULTILINE)
    assert re.search(r"^notes +tracked before$", done.out, re.MULTILINE)


def test_init_creates_a_missing_file(tmp_path: Path, crdtlog: Crdtlog) -> None:
    done = crdtlog("init", tmp_path / "new.db")

    assert "Created" in done.err and "crdtlog track" in done.err
    assert crdtlog("devices", tmp_path / "new.db").out


def odd_files(directory: Path) -> Iterator[tuple[str, Path, str]]:
    """What is no database that can be shared: a name, the path, and a word that the error must hold."""
    random = directory / "encrypted.db"
    random.write_bytes(os.urandom(8192))
    yield "encrypted", random, "encrypted"
    text = directory / "letter.txt"
    text.write_text("Dear Ada,\n" * 200)
    yield "no database", text, "not a readable SQLite database"
    yield "a directory", directory, "is a directory"
    yield "no directory", directory / "missing" / "notes.db", "does not exist"
    yield (
        "no keys",
        made(directory / "keyless.db", "CREATE TABLE a (x); CREATE TABLE b (y)"),
        "no declared primary key",
    )
    if Path("/proc/self").exists():
        yield "read-only directory", Path("/proc/notes.db"), "cannot be opened for writing"


def test_init_refuses_odd_files_and_leaves_them_as_they_were(tmp_path: Path, crdtlog: Crdtlog) -> None:
    for name, path, word in odd_files(tmp_path):
        before = path.read_bytes() if path.is_file() else None

        done = crdtlog("init", path, fails=1)

        assert_an_error(done, word)
        assert (path.read_bytes() if path.is_file() else None) == before, name
        assert not list(tmp_path.glob("*-wal")), name


@pytest.mark.parametrize(
    ("table", "word"), [("missing", "no table 'missing'"), ("cache", "no declared primary key")]
)
def test_init_refuses_a_table_that_cannot_be_tracked_before_it_changes_anything(
    notes: Path, crdtlog: Crdtlog, table: str, word: str
) -> None:
    write(notes, "CREATE TABLE cache (x)")
    before = notes.read_bytes()

    assert_an_error(crdtlog("init", notes, "--track", "notes", "--track", table, fails=1), word)

    assert notes.read_bytes() == before


def test_init_refuses_a_device_name_that_could_move_a_cursor(notes: Path, crdtlog: Crdtlog) -> None:
    assert_an_error(crdtlog("init", notes, "--device", "lap\x1b[2Jtop", fails=2), "cannot name a device")


# --- track --------------------------------------------------------------------------------------------------------


def test_track_takes_a_table_with_its_rows(shared: Path, crdtlog: Crdtlog) -> None:
    write(shared, "CREATE TABLE tags (id TEXT PRIMARY KEY, name); INSERT INTO tags VALUES ('x', 1), ('y', 2)")

    answer = crdtlog("track", shared, "tags", "--merge", "name=register", "--json").json

    assert_shape(answer, documented("track"))
    assert answer["track"] == {"name": "tags", "new": True, "rows": 2, "merge": {}, "warnings": []}
    assert not crdtlog("track", shared, "TAGS", "--json").json["track"]["new"]


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["missing"], 1, "no table 'missing'"),
        (["cache"], 1, "no declared primary key"),
        (["tags", "--merge", "name=prose"], 2, "no merge kind 'prose'"),
        (["tags", "--merge", "color=register"], 1, "no column 'color'"),
        (["tags", "--merge", "name"], 2, "COLUMN=KIND"),
        (["tags", "--merge", "id=counter"], 2, "part of the key"),
        (["tags", "name=register"], 2, "--merge"),
        (["odd"], 1, "UNIQUE"),
    ],
)
def test_track_refuses_what_it_cannot_do(
    shared: Path, crdtlog: Crdtlog, arguments: list[str], code: int, word: str
) -> None:
    write(shared, "CREATE TABLE tags (id TEXT PRIMARY KEY, name); CREATE TABLE cache (x);")
    write(shared, "CREATE TABLE odd (id TEXT PRIMARY KEY, name UNIQUE)")

    assert_an_error(crdtlog("track", shared, *arguments, fails=code), word)

    assert crdtlog("log", shared, "--kind", "schema", "--json").out.count("tracked") == 1
