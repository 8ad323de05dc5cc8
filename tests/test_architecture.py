"""The rules of the house that a program can check: who may import whom, what stays pure, what stays tidy.

Imports are read from the syntax tree, so that those inside functions count too. Files are found when the tests
are collected; a rule about a module that does not exist holds by itself.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("crdtlog", "peers")
HOUSES = (*SHIPPED, "simulations", "tests")

# What each house may never import, wherever in a file the import stands.
FORBIDDEN = {
    "crdtlog": "peers simulations tests asyncio socket socketserver ssl selectors threading _thread concurrent "
    "multiprocessing http urllib aiohttp zeroconf click rich",
    "peers": "simulations tests",
    "simulations": "tests",
}
# Calculations: time, randomness, files and rows come in as arguments.
PURE = ("clock", "values", "versions", "document", "kinds", "entry", "payload", "membership", "yjs_writer")
PURE += ("recovery", "words")
IMPURE = set("os io time sqlite3 random secrets pathlib shutil tempfile subprocess platformdirs".split())
# `import crdtlog` and the command line start without these; they cost more than everything else together.
HEAVY = ("aiohttp", "cryptography", "pycrdt", "zeroconf", "rich", "click", "inotify_simple", "segno")
HEAVY_FOR_CLI = ("aiohttp", "cryptography", "pycrdt", "zeroconf", "inotify_simple", "segno")
MAX_LINES = 600
UNFINISHED = ("TO" + "DO", "FIX" + "ME", "X" + "XX")


class Import(NamedTuple):
    """One imported module, by its full name, and where the import stands."""

    name: str
    line: int
    top_level: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def files(*houses: str) -> list[Path]:
    return [path for house in houses for path in sorted((ROOT / house).rglob("*.py"))]


MODULES = {module_name(path): path for path in files(*HOUSES)}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def imports(path: Path) -> tuple[Import, ...]:
    return tuple(_imports(tree(path), path, top_level=True))


def _imports(node: ast.AST, path: Path, top_level: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, node.lineno, top_level) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _absolute(node, path)
        for alias in node.names:
            member = f"{base}.{alias.name}"
            yield Import(member if member in MODULES else base, node.lineno, top_level)
    else:
        lazy = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        only_for_types = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            yield from _imports(child, path, top_level and not lazy and not only_for_types)


def _absolute(node: ast.ImportFrom, path: Path) -> str:
    if not node.level:
        return node.module or ""
    package = module_name(path).split(".")
    up = node.level - (path.name == "__init__.py")
    return ".".join([*package[: len(package) - up], *([node.module] if node.module else [])])


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


@pytest.mark.parametrize("house", FORBIDDEN)
def test_imports_run_one_way(house: str) -> None:
    wrong = [
        f"{place(path, found.line)} imports {found.name}"
        for path in files(house)
        for found in imports(path)
        if found.name.split(".")[0] in FORBIDDEN[house].split()
    ]

    assert not wrong


def test_a_relay_knows_nothing_of_databases_and_devices() -> None:
    """It could not tell what it must not learn: of everything else here it uses the family of errors alone."""
    foreign = {
        f"{name} imports {found.name}"
        for name, path in MODULES.items()
        if name.startswith("peers.relay.")
        for found in imports(path)
        if found.name.split(".")[0] in HOUSES
        and not found.name.startswith("peers.relay.")
        and found.name != "crdtlog.errors"
    }

    assert not foreign


@pytest.mark.parametrize("pure", PURE)
def test_pure_modules_reach_no_clock_file_or_randomness(pure: str) -> None:
    """Not directly, and not through another module of crdtlog either."""
    start = [name for name in MODULES if name == f"crdtlog.{pure}" or name.startswith(f"crdtlog.{pure}.")]
    wrong, seen, ahead = [], set(start), [(name, name) for name in start]
    while ahead:
        name, way = ahead.pop()
        for found in imports(MODULES[name]):
            if found.name.split(".")[0] in IMPURE:
                wrong.append(f"{place(MODULES[name], found.line)} imports {found.name} (reached by {way})")
            # The package itself is loaded first whatever is imported from it; its own rule is below.
            elif found.name in MODULES and found.name not in seen | {"crdtlog"}:
                seen.add(found.name)
                ahead.append((found.name, f"{way} -> {found.name}"))

    assert not wrong


def test_pycrdt_reads_bytes_only_in_the_text_worker_or_as_we_have_just_written_them() -> None:
    """No bytes of another device reach the library in any other process."""
    readers: dict[str, set[str]] = {}
    for name in MODULES:
        for node in ast.walk(tree(MODULES[name])) if name.split(".")[0] in (*SHIPPED, "simulations") else ():
            if isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "apply_update":
                readers.setdefault(name, set()).update(
                    ast.unparse(each.func) if isinstance(each, ast.Call) else "bytes" for each in node.args
                )
    users = {
        (name, found.top_level)
        for name in MODULES
        for found in imports(MODULES[name])
        if found.name == "crdtlog.kinds.textdoc" and not name.startswith("tests.")
    }

    assert readers == {
        "crdtlog.kinds.textdoc": {"bytes"},
        "crdtlog.live_json": {"update"},  # yjs_writer's
        "crdtlog.snapshot": {"self.update"},
    }
    assert users == {("crdtlog.textworker.__main__", False)}


@pytest.mark.parametrize("house", HOUSES)
def test_no_modules_import_each_other_in_a_circle(house: str) -> None:
    ahead = {
        name: {found.name for found in imports(path) if found.top_level and found.name in MODULES} - {name}
        for name, path in MODULES.items()
        if name.split(".")[0] == house
    }
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for other in sorted(ahead.get(name, ())):
                visit(other, (*way, name))
            done.add(name)

    for name in ahead:
        visit(name, ())


@pytest.mark.parametrize(("module", "heavy"), [("crdtlog", HEAVY), ("peers.cli", HEAVY_FOR_CLI)])
def test_importing_is_light(module: str, heavy: tuple[str, ...]) -> None:
    if module not in MODULES:
        pytest.skip(f"there is no {module}")
    show = f"import sys, {module}; print(*sorted(set(sys.modules) & set({heavy!r})))"

    done = subprocess.run([sys.executable, "-c", show], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.split() == []


@pytest.mark.parametrize("path", files(*SHIPPED, "simulations"), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_is_tidy(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    handlers = [node for node in ast.walk(tree(path)) if isinstance(node, ast.ExceptHandler)]
    silent = [place(path, node.lineno) for node in handlers if _swallows_everything(node)]
    unfinished = [line for line in lines if any(word in line for word in UNFINISHED)]

    assert len(lines) <= MAX_LINES, "a file this long is asking to be two"
    assert ast.get_docstring(tree(path)), "a module begins by saying what it knows"
    assert not silent, "an error that nobody sees is a lie"
    assert not unfinished


def _swallows_everything(node: ast.ExceptHandler) -> bool:
    broad = node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}
    empty = all(isinstance(line, ast.Pass) or ast.unparse(line) == "..." for line in node.body)
    return broad and empty
