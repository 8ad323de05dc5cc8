"""What the tests of JSON documents share: small trees, and documents that A begins and others change."""

from itertools import permutations

from hypothesis import strategies as st

from crdtlog.kinds import Mergeable, Origin, jsontext
from crdtlog.kinds.jsonstate import decode, encode
from crdtlog.kinds.jsontext import Json, minified
from crdtlog.kinds.jsontree import JsonTree
from crdtlog.values import Value


class _Twice(JsonTree):
    """Keeps the last document decoded, and does all from its bytes as well: both must come to the same."""

    def diff(self, state: bytes, value: Value, origin: Origin) -> bytes | None:
        patch = super().diff(state, value, origin)
        assert patch == JsonTree().diff(state, value, origin)
        return patch

    def merge(self, state: bytes, patch: bytes, origin: Origin) -> bytes:
        after = super().merge(state, patch, origin)
        assert after == JsonTree().merge(state, patch, origin)
        return after

    def show(self, state: bytes) -> str:
        shown = super().show(state)
        assert shown == JsonTree().show(state)
        return shown


KIND: Mergeable = _Twice()
A, B, C, D = (bytes([letter]) * 24 for letter in b"ABCD")

KEYS = st.sampled_from(["a", "b", "c", "id", "name"])
SCALARS = st.sampled_from(
    ["null", "true", "0", "1", "1.0", "-0", "1e5", "9007199254740993", '""', '"x"', '"é"']
)
TREES: st.SearchStrategy[Json] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=12,
)


def parsed(text: object) -> Json:
    """What a text says."""
    assert isinstance(text, str)
    tree = jsontext.parse(text)
    assert tree is not None
    return tree


def started(text: str) -> bytes:
    """The document that A began."""
    state = KIND.start(text, Origin(1, A, 1))
    assert state is not None
    return state


def change(state: bytes, text: str, origin: Origin) -> bytes:
    """The patch that makes a document show a text. Any patch's author sees at once exactly what was written."""
    patch = KIND.diff(state, text, origin)
    assert patch is not None
    after = KIND.merge(state, patch, origin)
    assert parsed(KIND.show(after)) == parsed(text)
    assert (patch == b"") == (parsed(KIND.show(state)) == parsed(text))
    assert KIND.diff(after, text, origin._replace(seq=origin.seq + 1)) == b""
    assert encode(decode(after)) == after
    return patch


def merged(state: bytes, *texts: tuple[str, Origin]) -> bytes:
    """A document with what several have written to it apart."""
    patches = [(change(state, text, origin), origin) for text, origin in texts]
    ends = set[bytes]()
    for order in permutations(patches):
        end = state
        for patch, origin in order:
            end = KIND.merge(end, patch, origin)
        ends.add(end)
    assert len(ends) == 1
    return ends.pop()


def together(base: str, *texts: str, stamps: tuple[int, ...] = (10, 20, 30)) -> str:
    """What all devices show after each of them has written one text apart, the first with the lowest stamp."""
    writers = [(A, 2), (B, 1), (C, 1)]  # A wrote the base
    origins = [Origin(stamp, writer, seq) for stamp, (writer, seq) in zip(stamps, writers, strict=False)]
    shown = KIND.show(merged(started(base), *zip(texts, origins, strict=False)))
    tree = parsed(shown)
    assert minified(tree) == shown
    return minified(tree)
