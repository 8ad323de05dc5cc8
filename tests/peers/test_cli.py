"""The command line: what it prints where, how it fails, and that the reference says so."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import click
import pytest

from peers.cli import overview
from peers.cli.commands import COMMANDS, group
from tests.peers.cli_reference import assert_shape, documented, section
from tests.peers.cli_world import (
    NOTES,
    ROOT,
    TIMEOUT_S,
    Crdtlog,
    Done,
    assert_an_error,
    finished,
    made,
    program,
    write,
)

BROKEN_PIPE = 141

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
    counts = {"without_document": 1, "changed": 1, "missing": 1, "null_keys": 0, "damaged": 0, "total": 3}
    assert found["tables"] == fixed["tables"] == [{"table": "notes", **counts}]
    assert (found["ok"], found["fixed"], fixed["ok"], fixed["fixed"]) == (False, False, True, True)
    assert "1 inserted, 1 updated, 1 deleted" in crdtlog("log", shared).out


def test_check_finds_and_mends_merge_documents_that_were_damaged(shared: Path, crdtlog: Crdtlog) -> None:
    crdtlog("track", shared, "notes", "--merge", "title=text")
    write(shared, "UPDATE notes SET title = title || ' and more'")
    assert crdtlog("check", shared, "--json").json["ok"]
    write(shared, "UPDATE crdtlog__merge SET versions = x'c1'; UPDATE notes SET title = title || '!'")

    assert "check" in crdtlog("check", shared, fails=1).err
    assert "Build it anew from the log" in crdtlog("doctor", shared, fails=3).out
    fixed = crdtlog("check", shared, "--fix", "--json").json

    assert (fixed["ok"], fixed["mended"]) == (True, 2)
    assert crdtlog("check", shared, "--json").json["mended"] == 0


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


def test_doctor_tells_cells_that_do_not_merge_and_what_to_do(tmp_path: Path, crdtlog: Crdtlog) -> None:
    file = made(tmp_path / "a.db", "CREATE TABLE t (id TEXT PRIMARY KEY, meta TEXT, n INTEGER)")
    crdtlog("init", file)
    crdtlog("track", file, "t", "--merge", "meta=json", "--merge", "n=counter")
    write(file, "INSERT INTO t VALUES ('fine', '[1]', 1), ('odd', 'no JSON', 2), ('odder', '{', 'many')")
    findings = crdtlog("doctor", file, "--json", fails=3).json["findings"]
    meta, number = [finding for finding in findings if finding["name"] == "merging"]
    assert meta["state"] == number["state"] == "problem"
    assert meta["message"].startswith("meta in 2 rows of t (the first is row odd): not JSON")
    assert "crdtlog track FILE t --merge meta=register" in meta["next"]
    assert "row odder" in number["message"] and "a number" in number["next"]

    write(file, "UPDATE t SET meta = NULL, n = 0 WHERE meta NOT LIKE '[%'")
    assert "merging" not in crdtlog("doctor", file).out
    crdtlog("track", file, "t", "--merge", "meta=register")
    write(file, "UPDATE t SET meta = 'no JSON'")
    assert "merging" not in crdtlog("doctor", file).out


def test_doctor_names_the_keys_that_are_missing_or_of_another_device(
    shared: Path, crdtlog: Crdtlog, home: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRDTLOG_HOME", str(home("empty")))
    missing = crdtlog("doctor", shared, fails=3)
    again = crdtlog("init", shared, fails=1)
    other = made(shared.with_name("other.db"), NOTES)
    crdtlog("init", other)
    foreign = crdtlog("doctor", shared, fails=3)

    for said in (missing.out, again.err):
        assert "no device keys" in said
        told = said.partition(f"{shared} belongs to a device")[2]
        assert "crdtlog join CODE" in told and "crdtlog init" not in told
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
