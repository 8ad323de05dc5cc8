"""What is written as a Yjs update is what pycrdt and Yjs itself read, whatever the tree."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycrdt import Array, Doc, Map
from pycrdt import Text as YText

from crdtlog.yjs_writer import MAX_INTEGER, Exact, Node, Text, update
from tests.yjs import seen_by_yjs

CLIENTS = st.integers(1, (1 << 53) - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
SCALARS: st.SearchStrategy[Node] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-MAX_INTEGER, MAX_INTEGER),
    st.integers(-100, 100),
    st.floats(allow_nan=False),
    TEXTS,
    st.binary(max_size=200),
    st.builds(Exact, st.sampled_from(["integer", "json"]), TEXTS),
)
NODES: st.SearchStrategy[Node] = st.recursive(
    st.one_of(SCALARS, st.builds(Text, TEXTS)),
    lambda inner: st.one_of(st.lists(inner, max_size=8), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=30,
)
EDGES: list[Node] = [
    *(
        sign * edge
        for edge in (0, 1, 63, 64, 127, 128, 8191, 8192, 2**31 - 1, 2**31, 2**53 - 1)
        for sign in (1, -1)
    ),
    *(0.0, -0.0, 0.1, 1e300, 5e-324, math.inf, -math.inf, 2.0**53, 2.0**63, 1e20),
    *(None, True, False, "", "\0", "ß", "日本", "😀" * 100, b"", bytes(range(256))),
    *(Text(""), Text("a"), Text("😀é\0"), Text("x" * 100_000), {}, [], [[]], [{}], {"": {"": []}}),
    *(
        [1, 2, [3], 4, 5, {"a": 6}, Text("7"), "8"],
        [[1], [2], 3],
        [Text("a"), Text("b")],
        [Exact("json", "1e400")],
    ),
]


def opened(data: bytes) -> "Map[Any]":
    """The map of a document with this update, after pycrdt has written and read it again."""
    first: Doc[Any] = Doc()
    first.apply_update(data)
    second: Doc[Any] = Doc()
    second.apply_update(first.get_update())
    assert second.get_state() == first.get_state()
    return second.get("row", type=Map)


def found(value: object) -> object:
    """What pycrdt gives, with shared types told apart from plain values, and numbers by their bits."""
    if isinstance(value, Map):
        return "map", {name: found(value[name]) for name in value}
    if isinstance(value, Array):
        return "array", [found(item) for item in value]
    if isinstance(value, YText):
        return "text", str(value)
    if isinstance(value, bytearray):
        return bytes(value)
    return value.hex() if isinstance(value, float) else value


def wanted(node: Node) -> object:
    """The same of a tree; every number is a double."""
    if isinstance(node, Exact):
        return {node.form: node.spelled}
    if isinstance(node, Text):
        return "text", node.text
    if isinstance(node, dict):
        return "map", {name: wanted(item) for name, item in node.items()}
    if isinstance(node, list):
        return "array", [wanted(item) for item in node]
    if isinstance(node, int) and not isinstance(node, bool):
        return float(node).hex()
    return node.hex() if isinstance(node, float) else node


def as_json(node: Node) -> object:
    """What tests/yjs/show.cjs prints of a tree: it has appended to every text in the root."""
    if isinstance(node, Exact):
        return {"plain": {node.form: node.spelled}}
    if isinstance(node, Text):
        return {"text": node.text}
    if isinstance(node, dict):
        return {"map": {name: as_json(item) for name, item in node.items()}}
    if isinstance(node, list):
        return {"array": [as_json(item) for item in node]}
    if isinstance(node, bytes):
        return {"bytes": node.hex()}
    if isinstance(node, float) and (math.isinf(node) or (node == 0 and math.copysign(1, node) < 0)):
        return {"number": "-0" if node == 0 else "Infinity" if node > 0 else "-Infinity"}
    return node


@given(st.dictionaries(TEXTS, NODES, max_size=5), CLIENTS)
def test_pycrdt_reads_what_was_written(tree: dict[str, Node], client: int) -> None:
    assert found(opened(update("row", tree, client))) == wanted(tree)


@pytest.mark.parametrize("client", [1, 127, 128, (1 << 53) - 1])
def test_pycrdt_reads_the_edges(client: int) -> None:
    tree: dict[str, Node] = {str(at): node for at, node in enumerate(EDGES)}
    assert found(opened(update("row", tree, client))) == wanted(tree)


@pytest.mark.usefixtures("needs_yjs")
def test_yjs_reads_what_was_written_and_goes_on_from_there() -> None:
    tree: dict[str, Node] = {str(at): node for at, node in enumerate(EDGES)}
    seen = seen_by_yjs(update("row", {**tree, "all": list(EDGES)}, 7))

    for name, node in tree.items():
        assert seen[name] == as_json(Text(f"{node.text}!") if isinstance(node, Text) else node)
    assert seen["all"] == as_json(list(EDGES))


def test_a_document_that_was_read_can_be_edited_and_merged() -> None:
    one: Doc[Any] = Doc()
    one.apply_update(update("row", {"body": Text("ac"), "tags": ["a", "c"]}, 5))
    other: Doc[Any] = Doc()
    other.apply_update(one.get_update())

    one.get("row", type=Map)["body"].insert(1, "b")
    other.get("row", type=Map)["tags"].insert(1, "b")
    one.apply_update(other.get_update())
    other.apply_update(one.get_update())

    for doc in (one, other):
        assert doc.get("row", type=Map).to_py() == {"body": "abc", "tags": ["a", "b", "c"]}


def test_a_large_document_takes_no_longer_than_its_size() -> None:
    tree: dict[str, Node] = {
        "rows": [{"n": n, "s": "x"} for n in range(30_000)],
        "numbers": list(range(100_000)),
    }
    doc: Doc[Any] = Doc()
    doc.apply_update(update("row", tree, 5))
    row = doc.get("row", type=Map)

    assert len(row["rows"]) == 30_000 and len(row["numbers"]) == 100_000
