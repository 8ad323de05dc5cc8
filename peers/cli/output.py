"""What commands print: data on standard output, messages on standard error, progress on a terminal only.

Knows terminals, JSON and columns. Must not know databases. The one idea: whatever is shown to a person may come from
another machine, so control characters are made visible before they reach a terminal; JSON carries every SQL value
without loss instead.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

#: The version of every JSON shape; see docs/reference/json.md.
JSON_VERSION = 1
MAX_CELL_CHARACTERS = 60
BOLD, RED, GREEN, YELLOW = 1, 31, 32, 33
_PROGRAMS = ("crdtlog", "sqlite3")
Progress = Callable[[str, int, int], None]

# --- data and messages --------------------------------------------------------------------------------------------


def show_data(line: str) -> None:
    """Print a line of data."""
    print(line)


def say(message: str = "") -> None:
    """Tell something beside the data; nobody, if standard error is closed."""
    if sys.stderr is not None:  # print would take standard output instead
        print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Tell something that may hurt later."""
    say(f"{styled('Warning:', sys.stderr, YELLOW)} {visible(message)}")


def complain(message: str, hint: str = "") -> None:
    """Tell why the command failed, and the next step on a line of its own."""
    text = visible(_capitalised(message.strip()))
    stop = "" if text.endswith((".", "!", "?")) else "."
    say(f"{styled('Error:', sys.stderr, RED)} {text}{stop}")
    if hint:
        say(f"  {visible(_capitalised(hint.strip()))}")


def _capitalised(text: str) -> str:
    """The text with a capital letter, unless it begins with a path, a name or a program's own spelling."""
    first = text.partition(" ")[0].rstrip(",")
    return text[:1].upper() + text[1:] if first.isalpha() and first not in _PROGRAMS else text


def is_terminal(stream: TextIO) -> bool:
    """Whether a person looks at that stream."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # closed before the program began (None), or since
        return False


def styled(text: str, stream: TextIO, style: int) -> str:
    """The text in a style (an ANSI number), if the stream is a terminal and NO_COLOR is not set (no-color.org)."""
    wanted = is_terminal(stream) and not os.environ.get("NO_COLOR")
    return f"\x1b[{style}m{text}\x1b[0m" if wanted else text


# --- JSON ---------------------------------------------------------------------------------------------------------


def show_json(shape: Mapping[str, object]) -> None:
    """Print one JSON object on one line, beginning with the version of its shape."""
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps({"v": JSON_VERSION, **shape}, ensure_ascii=not is_utf8, allow_nan=False)
    show_data(printable_json(text))


def printable_json(text: str) -> str:
    """JSON in which nothing can move a terminal's cursor or turn its direction, and which is still the same JSON."""
    if text.isprintable():
        return text
    return "".join(
        character if character in " \n" or character.isprintable() else json.dumps(character)[1:-1]
        for character in text
    )


def json_value(value: object) -> object:
    """An SQL value as JSON has it; what JSON has no form for becomes an object of one member.

    Blobs are `{"hex": …}`, text that is not valid UTF-8 `{"text_hex": …}`, infinities `{"real": "inf"}`.
    """
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"real": str(value)}
    if isinstance(value, str) and not _is_unicode(value):
        return {"text_hex": value.encode("utf-8", "surrogateescape").hex()}
    return value


def json_row(row: Mapping[str, object]) -> dict[str, object]:
    """A row by column name, its values as JSON has them."""
    return {name: json_value(value) for name, value in row.items()}


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- tables -------------------------------------------------------------------------------------------------------


def visible(value: object) -> str:
    """An SQL value as a person reads it on one line; nothing in it can move a terminal's cursor."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return "".join(_visible(character) for character in str(value))


def _visible(character: str) -> str:
    if character == " " or character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


def shortened(text: str) -> str:
    """Text cut to what a column holds."""
    return text if len(text) <= MAX_CELL_CHARACTERS else f"{text[: MAX_CELL_CHARACTERS - 1]}…"


def _width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    import unicodedata

    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) != 0 for character in text)


def show_table(
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    indent: str = "",
    notes: Mapping[int, str] | None = None,
) -> None:
    """Print rows in columns that fit; short values only (see `shortened`).

    `notes` are lines that stand below the row of that index.
    """
    lines = [[visible(value) for value in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(header, *lines, strict=True)]
    title = styled(_line(header, widths), sys.stdout, BOLD)
    show_data(indent + title)
    for index, line in enumerate(lines):
        show_data(indent + _line(line, widths))
        if notes and index in notes:
            show_data(f"{indent}  {visible(notes[index])}")


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell + " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(padded).rstrip()


def count(number: int, noun: str) -> str:
    """`1 row`, `12 rows`, `2 entries`."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else many}"


def moment(iso: str | None) -> str:
    """A UTC time as the views write it, without the milliseconds."""
    return "never" if iso is None else f"{iso[:10]} {iso[11:19]}"


def ago(iso: str | None) -> str:
    """How long ago a UTC time was, in the largest unit that fits."""
    if iso is None:
        return "never"
    from datetime import datetime

    seconds = max(0, int(time.time() - datetime.fromisoformat(iso).timestamp()))
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            return f"{count(seconds // size, unit)} ago"
    return f"{count(seconds, 'second')} ago"


# --- progress -----------------------------------------------------------------------------------------------------


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A callback `(what, done, total)` that draws a bar on standard error, if that is a terminal.

    The bar appears when a step takes longer than a moment; nothing of it stays on the screen.
    """
    if not is_terminal(sys.stderr):
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(visible(what), total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield show
