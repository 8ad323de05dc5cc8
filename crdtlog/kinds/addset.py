"""Sets: a JSON array without order, in which what anybody adds stays unless a remover had seen it.

An element is its canonical JSON text. Each time somebody adds it, it gains a dot; removing it names the dots that were
seen, so that an add made meanwhile wins. The array shows each element once, sorted. (An observed-remove set without
tombstones, as entries come in causal order and once: Shapiro et al. 2011; Bieniusa et al. 2012.)
"""

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, InvalidOperation

from crdtlog.errors import DamagedDocument, Malformed
from crdtlog.kinds import Origin
from crdtlog.kinds.jsontext import Json, is_json, minified, parse
from crdtlog.values import Value, pack, unpack, unpack_own
from crdtlog.versions import MAX_SEQ, WRITER_BYTES

#: Elements of one array that a program writes, and changes in one patch. What is merged may have more elements than
#: either: of patches that some device could merge, every device must be able to merge all.
MAX_ELEMENTS = 20_000
MAX_CHANGES = 40_000
#: Dots that one element may have.
MAX_DOTS = 10_000

_Dot = tuple[bytes, int]
_Elements = dict[str, set[_Dot]]


class AddSet:
    """The `set` kind."""

    name = "set"

    def start(self, value: Value, origin: Origin) -> bytes | None:
        """The set that a JSON array begins; None for anything else."""
        texts = _texts(value)
        return None if texts is None else _encode({text: {_dot(origin)} for text in texts})

    def diff(self, state: bytes, value: Value, origin: Origin) -> bytes | None:
        """The patch that makes a set show an array: elements added, and removed with the dots that were seen."""
        wanted = _texts(value)
        if wanted is None:
            return None
        elements = _decode(state)
        added = sorted(wanted - elements.keys())
        removed = {text: dots for text, dots in elements.items() if text not in wanted}
        if not added and not removed:
            return b""
        if len(added) + len(removed) > MAX_CHANGES:
            return None
        return pack([added, *_packed(removed)])

    def merge(self, state: bytes, patch: bytes, origin: Origin) -> bytes:
        """A set with a patch in it. Raises `Malformed`."""
        if not patch:
            return state
        elements = _decode(state)
        added, removed = _patch(patch)
        for text, dots in removed.items():
            left = elements.get(text, set()) - dots
            if left:
                elements[text] = left
            else:
                elements.pop(text, None)
        for text in added:
            elements.setdefault(text, set()).add(_dot(origin))
        return _encode(elements)

    def needs(self, patch: bytes, origin: Origin) -> dict[bytes, int]:
        """The latest dot of each writer among those that a patch removes. Raises `Malformed`."""
        latest: dict[bytes, int] = {}
        for dots in _patch(patch)[1].values() if patch else ():
            for writer, seq in dots:
                latest[writer] = max(seq, latest.get(writer, 0))
        return latest

    def show(self, state: bytes) -> Value:
        """The elements as a JSON array, sorted: null, false, true, numbers, texts, arrays, objects."""
        shown = _array(_decode(state))
        if not is_json(shown):
            raise DamagedDocument("what is kept of a set is damaged: it shows what is no JSON")
        return shown


def renamed(patch: bytes, dot: Callable[[bytes, int], tuple[bytes, int]]) -> bytes:
    """A patch with other names for the dots that it removes. Raises `Malformed`."""
    added, removed = _patch(patch)
    return pack([added, *_packed({text: {dot(*each) for each in dots} for text, dots in removed.items()})])


def tidy(value: Value) -> Value:
    """An array as a set shows it, sorted and each element once; anything else as it is."""
    texts = _texts(value)
    shown = value if texts is None else _array(texts)
    return value if shown == value else shown


def _array(texts: Iterable[str]) -> str:
    return f"[{','.join(sorted(texts, key=_place))}]"


def _dot(origin: Origin) -> _Dot:
    return (origin.writer, origin.seq)


# --- elements -----------------------------------------------------------------------------------------------------


def _texts(value: Value) -> set[str] | None:
    """The elements of a JSON array as canonical texts, or None if it is none, or one too long."""
    parsed = parse(value) if isinstance(value, str) else None
    if not isinstance(parsed, list) or len(parsed) > MAX_ELEMENTS:
        return None
    return {minified(canonical(item)) for item in parsed}


def canonical(value: Json) -> Json:
    """A value with every object's members in the order of their keys: equal objects have one text."""
    if isinstance(value, dict):
        return {key: canonical(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [canonical(item) for item in value]
    return value


_FIRST = {"n": 0, "f": 1, "t": 2, '"': 4, "[": 5, "{": 6}


def _place(text: str) -> tuple[int, Decimal, str]:
    kind = _FIRST.get(text[0], 3)
    try:
        number = Decimal(text) if kind == 3 else Decimal(0)
    except InvalidOperation:  # an exponent beyond all bounds
        number = Decimal(0)
    return kind, number if number.is_finite() else Decimal(0), text


# --- bytes --------------------------------------------------------------------------------------------------------


def _encode(elements: _Elements) -> bytes:
    """One form for one set: writers, elements and dots in order."""
    return pack(_packed(elements))


def _packed(elements: Mapping[str, Iterable[_Dot]]) -> list[object]:
    writers = sorted({writer for dots in elements.values() for writer, _ in dots})
    index = {writer: number for number, writer in enumerate(writers)}
    return [
        writers,
        [[text, sorted([index[w], seq] for w, seq in dots)] for text, dots in sorted(elements.items())],
    ]


def _decode(state: bytes) -> _Elements:
    """The inverse of `_encode`. Raises `DamagedDocument` for what nobody encoded, or gives a set of some kind."""
    try:
        writers, elements = unpack_own(state)
        found = {text: {(writers[w], seq) for w, seq in dots} for text, dots in elements}
    except (TypeError, ValueError, LookupError) as error:
        raise DamagedDocument("what is kept of a set is damaged") from error
    seqs = (seq for dots in found.values() for _, seq in dots)
    if not (_are(bytes, writers) and _are(str, found) and _are(int, seqs) and all(found)):
        raise DamagedDocument("what is kept of a set is no elements with their dots")
    return found


def _are(kind: type, items: Iterable[object]) -> bool:
    return set(map(type, items)) <= {kind}


def _patch(data: bytes) -> tuple[list[str], _Elements]:
    match unpack(data):
        case [list(added), list(writers), list(removed)]:
            pass
        case _:
            raise _malformed()
    if not all(isinstance(name, bytes) and len(name) == WRITER_BYTES for name in writers):
        raise _malformed()
    if len(added) + len(removed) > MAX_CHANGES or not all(map(_is_element, added)):
        raise _malformed()
    gone: _Elements = {}
    for item in removed:
        match item:
            case [str(text), list(dots)] if 0 < len(dots) <= MAX_DOTS:
                gone[text] = {_named(dot, writers) for dot in dots}
            case _:
                raise _malformed()
    if len(gone) != len(removed) or len(set(added)) != len(added) or not gone.keys().isdisjoint(added):
        raise _malformed()
    return added, gone


def _is_element(text: object) -> bool:
    parsed = parse(text) if isinstance(text, str) else None
    return parsed is not None and minified(canonical(parsed)) == text


def _named(dot: object, writers: list[bytes]) -> _Dot:
    match dot:
        case [int(writer), int(seq)] if 0 <= writer < len(writers) and 0 < seq <= MAX_SEQ:
            return writers[writer], seq
        case _:
            raise _malformed()


def _malformed() -> Malformed:
    return Malformed("a change of a set names elements added, and elements removed with their dots")
