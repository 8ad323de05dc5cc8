"""What the documentation tells people to type is typed here, and what it promises to answer is compared.

Checked are README.md, docs/tutorial/*.md, docs/guides/*.md and docs/reference/python.md. All blocks of one page run in
the order of the page, each page in fresh directories:

```python                     runs; all Python blocks of a page share one namespace, in one process
```python norun               is only compiled
```console                    runs; the options below may follow in any order
```console device=laptop      … as this device: with its own home (CRDTLOG_HOME) and its own working directory
```console background         … and the block's last command goes on running while the page goes on
```console exit=2             … and the block's last command must end with this status (otherwise 0)
```console norun              is not run, but each command must begin with a program named in KNOWN, and each
                              `make` target and `crdtlog` command must exist

In a console block a line that begins with `$ ` is a command for bash, run in a shell of its own in the device's
working directory (so a `cd` would be forgotten, and is refused); lines after it that begin with `> `, or follow
a line ending in a backslash, continue it. A command that ends in ` &` runs in the background; what runs there is
stopped at the end of the page. Lines that begin with `# ` before the first command are remarks. Everything else
is what the command is expected to print, standard output and errors together:

- without such lines the output is free; in the background the page waits until the expected lines have come;
- `...` or `…` stands for anything within a line, and alone on a line for any number of lines;
- how much white space stands between words does not matter;
- a pairing code (`4821-crater-lemon-sunset`) stands for the code really printed, there and in later commands;
- a port on 127.0.0.1 or localhost stands for a free one, so that pages can run at the same time.

Python blocks run in the directory of the device named `here`, as do console blocks without `device=`.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    path
    for pattern in ("README.md", "docs/tutorial/*.md", "docs/guides/*.md", "docs/reference/python.md")
    for path in sorted(ROOT.glob(pattern))
]
KNOWN = set(
    "crdtlog make git cd sqlite3 python python3 pip pipx uv node npm sudo apt systemctl journalctl loginctl curl "
    "cat cp mv rm ls mkdir echo export scp ssh datasette alembic psql createdb go wget tail kill".split()
)
COMMAND_TIMEOUT_S = 60
BACKGROUND_TIMEOUT_S = 30
CODE = re.compile(r"\b\d{1,6}(?:-[a-z]+){2,}\b")
LOCAL_PORT = re.compile(r"(?<=127\.0\.0\.1:)\d{2,5}\b|(?<=localhost:)\d{2,5}\b")


# --- reading a page ------------------------------------------------------------------------------------------


class Command(NamedTuple):
    """One command of a console block and the lines it is expected to print."""

    text: str
    expected: tuple[str, ...]
    line: int


class Block(NamedTuple):
    """One fenced block: its language, the words after it, its lines and the line number of the first."""

    language: str
    options: tuple[str, ...]
    lines: tuple[str, ...]
    line: int

    def option(self, name: str, default: str) -> str:
        return next((word.partition("=")[2] for word in self.options if word.startswith(f"{name}=")), default)


def blocks(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a Markdown text, also those inside lists (their indentation is removed)."""
    fence, indent, found = "", "", Block("", (), (), 0)
    for number, line in enumerate(text.splitlines(), 1):
        if not fence:
            if opening := re.match(r"( *)(`{3,})(\w*) *(.*)", line):
                fence, indent = opening[2], opening[1]
                found = Block(opening[3], tuple(opening[4].split()), (), number + 1)
        elif line.strip() == fence:
            fence = ""
            yield found
        else:
            found = found._replace(lines=(*found.lines, line.removeprefix(indent)))


def commands(block: Block) -> list[Command]:
    """Split a console block into commands with their expected output."""
    found: list[Command] = []
    continued = False
    for number, line in enumerate(block.lines, block.line):
        if line.startswith("$ "):
            found.append(Command(line[2:], (), number))
            continued = True
        elif continued and (line.startswith("> ") or found[-1].text.endswith("\\")):
            found[-1] = found[-1]._replace(text=f"{found[-1].text}\n{line.removeprefix('> ')}")
        elif found:
            continued = False
            found[-1] = found[-1]._replace(expected=(*found[-1].expected, line))
        else:
            assert not line.strip() or line.startswith("# "), f"line {number}: output before any command"
    return [command._replace(expected=_trimmed(command.expected)) for command in found]


def _trimmed(lines: tuple[str, ...]) -> tuple[str, ...]:
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    return lines


def pattern(expected: tuple[str, ...]) -> re.Pattern[str]:
    """Return what must match the whole output; each pairing code in the expected lines is a group."""
    return re.compile("".join(_line_pattern(line) for line in expected))


def _line_pattern(line: str) -> str:
    if line.strip() in {"...", "…"}:
        return r"(?:.*\n)*?"
    words = [_word_pattern(word) for word in re.split(r"(\.\.\.|…|\s+)", line.strip())]
    return r"[^\S\n]*" + "".join(words) + r"[^\S\n]*\n"


def _word_pattern(word: str) -> str:
    if word in {"...", "…"}:
        return ".*"
    if word.isspace():
        return r"[^\S\n]+"
    parts = re.split(f"({CODE.pattern})", word)
    return "".join(f"({CODE.pattern})" if CODE.fullmatch(part) else re.escape(part) for part in parts)


# --- running a page ------------------------------------------------------------------------------------------

# Reads one length-prefixed block after another and runs it in the same namespace.
PYTHON_LOOP = """
import sys
names = {"__name__": "__main__"}
while header := sys.stdin.readline():
    line, length = map(int, header.split())
    exec(compile("\\n" * (line - 1) + sys.stdin.read(length), sys.argv[1], "exec"), names)
    print("\\0ran", flush=True)
"""


class Page:
    """The devices, processes and replaced words of one page while it runs."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path = path
        self.root = root
        self.words: dict[str, str] = {}
        self.started: list[subprocess.Popen[str]] = []
        self.python: subprocess.Popen[str] | None = None

    def directory(self, device: str) -> Path:
        path = self.root / device / "work"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def environment(self, device: str) -> dict[str, str]:
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
        own = {"PATH": path, "CRDTLOG_HOME": str(self.root / device / "home"), "PYTHONPATH": str(ROOT)}
        plain = {"NO_COLOR": "1", "COLUMNS": "120", "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
        return {**os.environ, **own, **plain}

    def replaced(self, text: str) -> str:
        """Put the real pairing codes and ports in the place of the page's."""
        for port in LOCAL_PORT.findall(text):
            self.words.setdefault(port, _free_port())
        text = LOCAL_PORT.sub(lambda found: self.words[found[0]], text)
        return CODE.sub(lambda found: self.words.get(found[0], found[0]), text)

    def run_console(self, block: Block) -> None:
        device = block.option("device", "here")
        listed = commands(block)
        for command in listed:
            last = command is listed[-1]
            text = command.text.strip()
            forgotten = re.match(r"(cd|export)\b", text)
            assert not forgotten, f"{self.path.name}:{command.line}: `{text}` has no effect on what follows"
            if text.endswith(" &") or (last and "background" in block.options):
                self.run_behind(command._replace(text=text.removesuffix(" &")), device)
            else:
                self.run_before(command, device, int(block.option("exit", "0")) if last else 0)

    def run_before(self, command: Command, device: str, status: int) -> None:
        with self.start(command, device) as process:
            try:
                output, _ = process.communicate(timeout=COMMAND_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                stop(process)
                output, _ = process.communicate()
                pytest.fail(self.message(command, output, f"still runs after {COMMAND_TIMEOUT_S} s"))
        assert process.returncode == status, self.message(command, output, f"ended with {process.returncode}")
        if command.expected and not self.agrees(command.expected, output):
            pytest.fail(self.message(command, output, "printed something else"))

    def run_behind(self, command: Command, device: str) -> None:
        log = self.root / f"output-{len(self.started)}"
        process = self.start(command, device, log)
        self.started.append(process)
        end = time.monotonic() + BACKGROUND_TIMEOUT_S
        # What comes after the expected lines is free: the command is not over.
        while not self.agrees((*command.expected, "..."), output := log.read_text()):
            if process.poll() is not None:
                pytest.fail(self.message(command, output, f"ended early with {process.returncode}"))
            if time.monotonic() > end:
                pytest.fail(self.message(command, output, "did not print what was expected"))
            time.sleep(0.05)

    def start(self, command: Command, device: str, log: Path | None = None) -> subprocess.Popen[str]:
        with open(log or os.devnull, "w") as output:
            return subprocess.Popen(
                ["bash", "-c", self.replaced(command.text)],
                cwd=self.directory(device),
                env=self.environment(device),
                stdin=subprocess.DEVNULL,
                stdout=output if log else subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def agrees(self, expected: tuple[str, ...], output: str) -> bool:
        """Compare; from then on the page's pairing codes stand for the ones printed."""
        known = LOCAL_PORT.sub(lambda port: self.words.get(port[0], port[0]), "\n".join(expected)).split("\n")
        found = pattern(tuple(known)).fullmatch(output.rstrip("\n") + "\n" if output.strip() else "")
        if found:
            self.words.update(zip(CODE.findall("\n".join(expected)), found.groups(), strict=True))
        return found is not None

    def run_python(self, block: Block) -> None:
        if self.python is None:
            self.python = subprocess.Popen(
                [sys.executable, "-c", PYTHON_LOOP, str(self.path)],
                cwd=self.directory("here"),
                env=self.environment("here"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            self.started.append(self.python)
        source = self.replaced("\n".join(block.lines))
        assert self.python.stdin and self.python.stdout
        self.python.stdin.write(f"{block.line} {len(source)}\n{source}")
        self.python.stdin.flush()
        output = []
        for line in self.python.stdout:
            if line.endswith("\0ran\n"):
                return
            output.append(line)
        pytest.fail(f"{self.path.name}:{block.line}: the Python block failed\n{''.join(output)}")

    def message(self, command: Command, output: str, what: str) -> str:
        where = f"{self.path.name}:{command.line}: `{command.text}` {what}"
        return "\n".join((where, "--- expected", *command.expected, "--- printed", output))

    def close(self) -> None:
        for process in reversed(self.started):
            stop(process)


def stop(process: subprocess.Popen[str]) -> None:
    """End a process that we started, and what it started in turn."""
    for wanted in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, wanted)
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                continue
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def runnable(page: Path) -> list[Block]:
    wanted = ("console", "python")
    return [block for block in blocks(page.read_text("utf-8")) if block.language in wanted]


def first_words(command: str) -> Iterator[list[str]]:
    """Yield the words of each simple command in a line of shell, without leading assignments."""
    for part in re.split(r"\||&&|;", command.split("\n")[0].rstrip("\\& ")):
        try:
            words = shlex.split(part)
        except ValueError:  # a quote that spans the split: only its beginning is of interest
            words = part.split()
        while words and re.match(r"\w+=", words[0]):
            words = words[1:]
        if words:
            yield words
        if "'" in part or '"' in part:  # what follows may stand inside the quotes
            return


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_tells_to_type_works(path: Path) -> None:
    run = [block for block in runnable(path) if "norun" not in block.options]
    if not run:
        pytest.skip("the page has no block that runs")
    programs = {
        words[0]
        for block in run
        if block.language == "console"
        for command in commands(block)
        for words in first_words(command.text)
        if words[0] in KNOWN - {"crdtlog", "cd", "export"}
    }
    if missing := sorted(program for program in programs if not shutil.which(program)):
        pytest.skip(f"the page uses {', '.join(missing)}, which is not installed here")

    # Short, because the path of a Unix socket may have 107 bytes.
    with ExitStack() as stack:
        root = stack.enter_context(tempfile.TemporaryDirectory(prefix="crdtlog-", ignore_cleanup_errors=True))
        page = stack.enter_context(closing(Page(path, Path(root))))
        for block in run:
            (page.run_console if block.language == "console" else page.run_python)(block)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_shows_exists(path: Path) -> None:
    for block in runnable(path):
        if block.language == "python":
            compile("\n" * (block.line - 1) + "\n".join(block.lines), str(path), "exec")
            continue
        for command in commands(block):
            for words in first_words(command.text):
                where = f"{path.name}:{command.line}: {' '.join(words)}"
                assert words[0] in KNOWN or "norun" not in block.options, f"{where}: not a known program"
                if words[0] == "make":
                    targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
                    assert set(targets) <= make_targets(), f"{where}: no such target"
                if words[0] == "crdtlog" and len(words) > 1 and not words[1].startswith("-"):
                    assert words[1] in subcommands(), f"{where}: no such command"


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


# --- the reference is complete -------------------------------------------------------------------------------


@cache
def subcommands() -> frozenset[str]:
    """Return the names under every heading of `crdtlog --help` except its options."""
    if not (ROOT / "peers" / "cli" / "__init__.py").exists():
        pytest.skip("there is no command line")
    show = [sys.executable, "-c", "from peers.cli import main; main()", "--help"]
    wide = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(show, cwd=ROOT, capture_output=True, text=True, check=True, env=wide)
    names, heading = set(), ""
    for line in done.stdout.splitlines():
        if line and not line[0].isspace():
            heading = line
        elif heading != "Options:" and (entry := re.match(r"  ([a-z][a-z-]*)(  |$)", line)):
            names.add(entry[1])
    return frozenset(names)


def headings(page: Path) -> list[str]:
    return re.findall(r"^#+ (.*)", page.read_text("utf-8"), re.MULTILINE)


def test_every_command_has_a_section_in_the_reference() -> None:
    page = ROOT / "docs" / "reference" / "cli.md"
    if not page.exists():
        pytest.skip("there is no docs/reference/cli.md")
    words = {word for heading in headings(page) for word in re.findall(r"[a-z][a-z-]*", heading)}

    assert subcommands(), "crdtlog --help lists no command"
    assert sorted(subcommands() - words) == []


def test_every_view_has_a_section_in_the_reference(tmp_path: Path, home: Callable[..., Path]) -> None:
    page = ROOT / "docs" / "reference" / "views.md"
    if not page.exists():
        pytest.skip("there is no docs/reference/views.md")
    import crdtlog

    with crdtlog.open(tmp_path / "notes.db", home=home()) as database:
        database.execute("CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, body TEXT)")
        database.track("notes")
    with closing(sqlite3.connect(tmp_path / "notes.db")) as connection:
        views = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'view'")}
    words = {word for heading in headings(page) for word in re.findall(r"\w+", heading)}

    assert views, "a database has no views"
    assert sorted(views - words) == []


# --- the format above, tried on itself -----------------------------------------------------------------------


def page_of(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "page.md"
    path.write_text("\n".join(lines))
    return path


def test_pages_run_in_order_with_their_devices_codes_and_ports(tmp_path: Path) -> None:
    path = page_of(
        tmp_path,
        "```console device=laptop background",
        "$ echo 77-apple-berry-cherry; echo on 127.0.0.1:4000; sleep 60",
        "4821-crater-lemon-sunset",
        "```",
        "1. in a list",
        "   ```console device=phone",
        "   # a remark",
        "   $ echo 4821-crater-lemon-sunset > code; \\",
        "   > cat code; basename $(dirname $PWD); echo x   y 1234 z; echo a; echo b; echo c",
        "   4821-crater-lemon-sunset",
        "   phone",
        "   x y ... z",
        "   ...",
        "   c",
        "   ```",
        "```python",
        "value = 6",
        "```",
        "```python",
        "open('made', 'w').write(str(value * 7))",
        "```",
        "```console exit=3",
        "$ cat made",
        "42",
        "$ echo failed >&2; exit 3",
        "failed",
        "```",
    )

    test_what_a_page_tells_to_type_works(path)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["```console", "$ echo one", "two", "```"], "printed something else"),
        (["```console", "$ false", "```"], "ended with 1"),
        (["```console", "$ false &", "never", "```"], "ended early"),
        (["```python", "value = 1", "value / 0", "```"], 'page.md", line 3'),
    ],
)
def test_a_page_that_is_wrong_is_refused(tmp_path: Path, lines: list[str], complaint: str) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception), match=re.escape(complaint)):
        test_what_a_page_tells_to_type_works(page_of(tmp_path, *lines))


@pytest.mark.parametrize("line", ["$ unheard-of thing", "$ make coffee", "$ git status && make coffee"])
def test_a_page_that_shows_what_does_not_exist_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(AssertionError, match=r"no such target|not a known program"):
        test_what_a_page_shows_exists(page_of(tmp_path, "```console norun", line, "```"))
