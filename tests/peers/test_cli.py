"""The command line: what it prints where, how it fails, and that the reference says so."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

from peers.cli import overview, run
from peers.cli.commands import COMMANDS, group
from tests.peers.cli_reference import assert_shape, documented, section

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60
BROKEN_PIPE = 141

NOTES = """
    CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, title TEXT, size REAL, picture BLOB);
    INSERT INTO notes VALUES ('a', 'Milk', 1.5, x'00ff'), ('b', 'Bread', 9e999, NULL);
"""


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Its standard output, which must be one JSON object on one line."""
        assert self.out.count("\n") == 1, self.out
        return dict(json.loads(self.out))


Crdtlog = Callable[..., Done]


@pytest.fixture
def crdtlog(capsys: pytest.CaptureFixture[str]) -> Crdtlog:
    """Run a command in this process; `fails=code` expects that exit code instead of 0."""

    def call(*arguments: object, fails: int = 0) -> Done:
        code = run([str(argument) for argument in arguments])
        done = Done(code, *capsys.readouterr())
        assert code == fails, f"{arguments} ended with {code}\n{done.out}{done.err}"
        return done

    return call


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """An ordinary SQLite file with two rows."""
    return made(tmp_path / "notes.db", NOTES)


@pytest.fixture
def shared(notes: Path, crdtlog: Crdtlog) -> Path:
    """The same file as a replicated database."""
    crdtlog("init", notes, "--device", "laptop")
    return notes


def made(path: Path, sql: str) -> Path:
    write(path, sql)
    return path


def write(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(sql)


def program(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start a command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "peers.cli", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> Done:
    out, err = process.communicate(timeout=TIMEOUT_S)
    return Done(process.returncode, out, err)


def assert_an_error(done: Done, *words: str) -> None:
    """An error says what happened, why, and what to do; nothing else is printed, least of all a traceback."""
    assert done.out == ""
    assert done.err.startswith(("Error: ", "Usage: ")), done.err
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err, done.err
    if done.err.startswith("Error: "):
        what, _, hint = done.err.partition("\n  ")
        assert what.endswith((".", "!", "?")), what
        assert hint.strip(), "the next step is missing"


# --- help ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str, crdtlog: Crdtlog) -> None:
    done = crdtlog(name, "--help")

    assert re.search(rf"Examples?:\n( +.*\n)*? +(CRDTLOG_HOME=\S+ )?crdtlog {name}\b", done.out), done.out
    assert not done.err


def test_help_lists_every_command_with_a_line(crdtlog: Crdtlog) -> None:
    done = crdtlog("--help")

    for name in COMMANDS:
        assert re.search(rf"^  {name} +\w", done.out, re.MULTILINE), name


@pytest.mark.parametrize("name", COMMANDS)
def test_options_in_the_reference_are_those_of_the_command(name: str) -> None:
    synopsis = section("cli.md", name).split("```")[1]

    command = group.get_command(click.Context(group), name)
    assert command is not None
    offered = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    assert set(re.findall(r"--[a-z-]+", synopsis)) == offered


def test_without_a_command_help_is_shown(crdtlog: Crdtlog) -> None:
    done = crdtlog(fails=2)

    assert "Commands:" in done.err
    assert not done.out


def test_the_version_is_shown(crdtlog: Crdtlog) -> None:
    assert re.fullmatch(
        r"crdtlog (\d+\.\d+\.\d+|\(not installed, run from its source\))\n", crdtlog("--version").out
    )


def test_an_unknown_command_is_refused(crdtlog: Crdtlog) -> None:
    assert_an_error(crdtlog("synchronise", fails=2), "synchronise")


def test_importing_the_command_line_imports_neither_the_engine_nor_the_network() -> None:
    show = "import sys, peers.cli.status; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", show], cwd=ROOT, capture_output=True, text=True, check=True
    )

    heavy = {
        "sqlite3",
        "asyncio",
        "aiohttp",
        "cryptography",
        "rich",
        "msgpack",
        "crdtlog.database",
        "segno",
        "ssl",
    }
    assert not heavy & set(loaded.stdout.split())


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
    assert answer["track"] == {"name": "tags", "new": True, "rows": 2, "warnings": []}
    assert not crdtlog("track", shared, "TAGS", "--json").json["track"]["new"]


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["missing"], 1, "no table 'missing'"),
        (["cache"], 1, "no declared primary key"),
        (["tags", "--merge", "name=text"], 2, "no merge kind 'text'"),
        (["tags", "--merge", "color=register"], 1, "no column 'color'"),
        (["tags", "--merge", "name"], 2, "COLUMN=KIND"),
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


# --- showing ------------------------------------------------------------------------------------------------------


def test_devices_lists_this_device(shared: Path, crdtlog: Crdtlog) -> None:
    answer = crdtlog("devices", shared, "--json").json

    assert_shape(answer, documented("devices"))
    (device,) = answer["devices"]
    assert (device["name"], device["role"], device["self"]) == ("laptop", "admin", True)
    assert "laptop (this device)" in crdtlog("devices", shared).out


def test_log_holds_what_was_written_a_moment_ago(shared: Path, crdtlog: Crdtlog) -> None:
    write(shared, "UPDATE notes SET title = 'Rice' WHERE id = 'a'")

    answer = crdtlog("log", shared, "--json").json

    assert_shape(answer, documented("log"))
    assert [entry["kind"] for entry in answer["entries"]] == ["member", "schema", "data", "data"]
    assert "1 updated" in crdtlog("log", shared, "--kind", "data").out.splitlines()[-1]
    assert_an_error(crdtlog("log", shared, "--kind", "date", fails=2), "no kind of entry 'date'")


def test_log_follow_prints_entries_as_they_come_until_interrupted(shared: Path) -> None:
    process = program("log", shared, "--follow", "--json")
    assert process.stdout
    first = json.loads(process.stdout.readline())

    write(shared, "INSERT INTO notes (id) VALUES ('c')")
    second = json.loads(process.stdout.readline())
    process.send_signal(2)

    assert [entry["sequence"] for entry in first["entries"]] == [1, 2, 3]
    assert [entry["sequence"] for entry in second["entries"]] == [4]
    assert finished(process).code == 130


def test_conflicts_are_none_at_first(shared: Path, crdtlog: Crdtlog) -> None:
    assert crdtlog("conflicts", shared, "--json").json == {"v": 1, "conflicts": []}
    assert crdtlog("conflicts", shared) == Done(0, "", "No conflicts.\n")


def test_status_without_a_daemon_is_about_the_file(shared: Path, crdtlog: Crdtlog) -> None:
    answer = crdtlog("status", shared, "--json").json

    assert_shape(answer, documented("status"))
    assert answer["daemon"] is None
    assert [device["name"] for device in answer["files"][0]["devices"]] == ["laptop"]


def test_status_and_doctor_tell_a_paused_table_with_the_reason(shared: Path, crdtlog: Crdtlog) -> None:
    write(shared, "ALTER TABLE notes ADD COLUMN color TEXT; INSERT INTO notes (id) VALUES ('c')")

    done = crdtlog("status", shared)
    findings = crdtlog("doctor", shared, "--json", fails=3).json["findings"]

    assert re.search(r"paused: table notes: .*color", done.out)
    assert re.search(r"1 change to be taken in", done.out)
    paused = next(finding for finding in findings if finding["name"] == "paused")
    assert paused["state"] == "problem" and "color" in paused["message"]
    assert crdtlog("check", shared, "--json", fails=3).json["paused"][0]["table"] == "notes"


# --- sql ----------------------------------------------------------------------------------------------------------


def test_sql_reads_every_kind_of_value(shared: Path, crdtlog: Crdtlog) -> None:
    write(
        shared, "UPDATE notes SET title = CAST(x'6361e9' AS TEXT), size = 9223372036854775807 WHERE id = 'a'"
    )

    answer = crdtlog("sql", shared, "SELECT *, 9007199254740993 AS n FROM notes ORDER BY id", "--json").json

    example = documented("sql")
    assert answer == {
        "v": 1,
        "columns": ["id", "title", "size", "picture", "n"],
        "rows": [
            ["a", {"text_hex": "6361e9"}, 9.223372036854775807e18, {"hex": "00ff"}, 9007199254740993],
            ["b", "Bread", {"real": "inf"}, None, 9007199254740993],
        ],
    }
    assert set(answer) <= set(example)


def test_sql_prints_a_table_in_which_nothing_moves_the_cursor(shared: Path, crdtlog: Crdtlog) -> None:
    write(shared, "UPDATE notes SET title = 'a' || char(27) || '[2Jb' || char(10) || '日本'")

    done = crdtlog("sql", shared, "SELECT id, title FROM notes")

    assert done.out.splitlines()[1] == r"a   a\x1b[2Jb\n日本"


def test_sql_writes_in_one_transaction_that_is_captured(shared: Path, crdtlog: Crdtlog) -> None:
    answer = crdtlog("sql", shared, "UPDATE notes SET title = 'x' RETURNING id", "--json").json

    assert answer == {"v": 1, "columns": ["id"], "rows": [["a"], ["b"]], "changed": 2}
    assert "2 updated" in crdtlog("log", shared).out


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("SELEKT 1", "syntax error"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("SELECT * FROM missing", "no such table"),
        ("INSERT INTO notes (id) VALUES ('a')", "UNIQUE constraint failed"),
    ],
)
def test_sql_says_what_sqlite_refuses(shared: Path, crdtlog: Crdtlog, query: str, word: str) -> None:
    assert_an_error(crdtlog("sql", shared, query, fails=2), word)


def test_sql_refuses_to_read_the_past(shared: Path, crdtlog: Crdtlog) -> None:
    assert_an_error(
        crdtlog("sql", shared, "SELECT 1", "--as-of", "2026-01-01", fails=2), "not in this version"
    )


def test_sql_into_a_pipe_that_is_closed_ends_quietly(shared: Path) -> None:
    query = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 50000) SELECT i FROM n"
    process = program("sql", shared, query)
    assert process.stdout and process.stderr
    process.stdout.readline()
    process.stdout.close()

    assert process.stderr.read() == ""
    assert process.wait(TIMEOUT_S) == BROKEN_PIPE


# --- verify and check ---------------------------------------------------------------------------------------------


def test_verify_covers_what_was_written_a_moment_ago(shared: Path, crdtlog: Crdtlog) -> None:
    before = crdtlog("verify", shared, "--json").json
    write(shared, "UPDATE notes SET title = 'Rice' WHERE id = 'a'")

    after = crdtlog("verify", shared, "--json").json

    assert_shape(after, documented("verify"))
    assert after["ok"] and re.fullmatch(r"[0-9a-f]{64}", after["state"])
    assert after["state"] != before["state"]
    assert crdtlog("verify", shared).out == f"ok  state {after['state']}\n"


def test_verify_finds_an_entry_that_was_changed(shared: Path, crdtlog: Crdtlog) -> None:
    write(shared, "UPDATE crdtlog__log SET signed = CAST(signed || x'00' AS BLOB) WHERE position = 3")

    done = crdtlog("verify", shared, "--json", fails=3)

    assert not done.json["ok"]
    assert "entry 3" in done.json["problems"][0]
    assert "Problem: entry 3" in crdtlog("verify", shared, fails=3).err


def test_check_finds_and_fixes_what_was_not_captured(shared: Path, crdtlog: Crdtlog) -> None:
    write(shared, "UPDATE notes SET title = 'Rice' WHERE id = 'a'; INSERT INTO notes (id) VALUES ('c')")
    write(shared, "DELETE FROM notes WHERE id = 'b'; DELETE FROM crdtlog__capture_1")

    found = crdtlog("check", shared, "--json", fails=3).json
    fixed = crdtlog("check", shared, "--fix", "--json").json

    assert_shape(found, documented("check"))
    counts = {"without_document": 1, "changed": 1, "missing": 1, "null_keys": 0, "total": 3}
    assert found["tables"] == fixed["tables"] == [{"table": "notes", **counts}]
    assert (found["ok"], found["fixed"], fixed["ok"], fixed["fixed"]) == (False, False, True, True)
    assert "1 inserted, 1 updated, 1 deleted" in crdtlog("log", shared).out


def test_check_of_a_file_in_order(shared: Path, crdtlog: Crdtlog) -> None:
    write(shared, "DELETE FROM notes WHERE id = 'a'")

    answer = crdtlog("check", shared, "--json").json

    assert_shape(answer, documented("check"))
    assert answer["ok"] and not answer["fixed"]
    assert crdtlog("check", shared, "--fix").err.endswith("All rows agree with their documents.\n")


# --- paths, doctor and errors -------------------------------------------------------------------------------------


def test_paths_lie_in_the_home(crdtlog: Crdtlog) -> None:
    answer = crdtlog("paths", "--json").json

    assert_shape(answer, documented("paths"))
    assert all(path.startswith(os.environ["CRDTLOG_HOME"]) for path in answer["paths"].values())


def test_doctor_of_a_file_in_order(shared: Path, crdtlog: Crdtlog) -> None:
    answer = crdtlog("doctor", shared, "--json").json

    assert_shape(answer, documented("doctor"))
    states = {finding["name"]: finding["state"] for finding in answer["findings"]}
    assert answer["ok"]
    assert states == dict.fromkeys(("sqlite", "keys", "file", "wal", "tables", "captures"), "ok") | {
        "daemon": "note"
    }


def test_doctor_tells_rows_without_a_key_and_tables_that_stay(tmp_path: Path, crdtlog: Crdtlog) -> None:
    tables = "CREATE TABLE notes (id TEXT PRIMARY KEY); CREATE TABLE cache (x);"
    file = made(tmp_path / "notes.db", f"{tables} INSERT INTO notes VALUES (NULL), (NULL), ('a')")
    crdtlog("init", file)

    done = crdtlog("doctor", file)

    assert "2 rows of notes have a NULL key" in done.out
    assert "table cache stays on this device" in done.out


def test_doctor_names_the_keys_that_are_missing_or_of_another_device(
    shared: Path, crdtlog: Crdtlog, home: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRDTLOG_HOME", str(home("empty")))
    missing = crdtlog("doctor", shared, fails=3)
    other = made(shared.with_name("other.db"), NOTES)
    crdtlog("init", other)
    foreign = crdtlog("doctor", shared, fails=3)

    assert "no device keys" in missing.out
    assert "belongs to another device" in foreign.out and "crdtlog pair" in foreign.out


def test_doctor_tells_a_file_that_cannot_be_written(
    shared: Path, crdtlog: Crdtlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever runs tests as root may write everything, whatever its permissions.
    monkeypatch.setattr(os, "access", lambda path, mode: path != shared.parent)

    assert f"{shared.parent} cannot be written" in crdtlog("doctor", shared, fails=3).out


def test_doctor_tells_a_clock_that_is_wrong(shared: Path, crdtlog: Crdtlog) -> None:
    write(shared, "UPDATE crdtlog__writer SET last_stamp = last_stamp + (3600000 << 16)")

    assert re.search(
        r"clock: laptop wrote at a time that is (59|60) minutes ahead", crdtlog("doctor", shared, fails=3).out
    )


@pytest.mark.parametrize(
    "command",
    [
        ["track", "FILE", "notes"],
        ["devices", "FILE"],
        ["conflicts", "FILE"],
        ["log", "FILE"],
        ["sql", "FILE", "SELECT 1"],
        ["verify", "FILE"],
        ["check", "FILE"],
        ["status", "FILE"],
        ["sync", "FILE"],
        ["pair", "FILE"],
    ],
    ids=lambda command: command[0],
)
def test_commands_refuse_files_that_are_no_shared_databases(
    notes: Path, tmp_path: Path, crdtlog: Crdtlog, command: list[str]
) -> None:
    text = tmp_path / "letter.txt"
    text.write_text("Dear Ada,\n" * 200)
    for path, words in (
        (notes, ("not a crdtlog database yet", f"crdtlog init {notes}")),
        (text, ("not a readable SQLite database",)),
        (tmp_path / "missing.db", ("does not exist",)),
    ):
        assert_an_error(
            crdtlog(*(str(path) if word == "FILE" else word for word in command), fails=1), *words
        )
    assert not (tmp_path / "missing.db").exists()


def test_a_copied_file_is_refused_on_another_device(
    shared: Path, crdtlog: Crdtlog, home: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copyfile(shared, shared.with_name("copy.db")))
    monkeypatch.setenv("CRDTLOG_HOME", str(home("phone")))
    crdtlog("init", made(shared.with_name("own.db"), NOTES))

    assert_an_error(crdtlog("devices", copy, fails=1), "another device", "crdtlog join")


def test_a_file_that_another_program_keeps_locked_is_a_temporary_error(
    shared: Path, crdtlog: Crdtlog
) -> None:
    with closing(sqlite3.connect(shared)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO notes (id) VALUES ('c')")

        assert_an_error(crdtlog("conflicts", shared, fails=75), "locked")


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from peers.cli.output import BOLD, styled

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR")
    in_colour = styled("x", Terminal(), BOLD)  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    plain = styled("x", Terminal(), BOLD)  # type: ignore[arg-type]

    assert (in_colour, plain) == ("\x1b[1mx\x1b[0m", "x")


def test_status_shows_a_devices_problem_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    me = {"name": "laptop", "self": True, "problem": None}
    evil = {"name": "evil", "self": False, "path": None, "lag": 2, "connected": False, "last_seen": None}
    devices = [me, {**evil, "problem": "was dropped: it sent something that cannot be accepted (a\x1b)."}]

    overview.show_file({"path": "n.db", "served": True, "devices": devices, "pending": 0, "tables": []})

    lines = capsys.readouterr().out.splitlines()
    assert "evil" in lines[3] and lines[4].startswith("    was dropped: it sent something")
    assert "\x1b" not in lines[4]
