"""How a column's concurrent writes merge.

`register` keeps versions whole: the latest shows, concurrent ones are conflicts. The other kinds merge: a write of
theirs is a patch to a document that an earlier write began, and patches that were made apart are put together in any
order that causality allows. Kinds are named in schema entries, so every device encodes its writes alike; a patch names
its kind by a code, so every device merges it alike, whatever the column is then.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from crdtlog.errors import Malformed, Usage
from crdtlog.kinds import text
from crdtlog.values import Value
from crdtlog.versions import WRITER_BYTES

REGISTER, TEXT, JSON, COUNTER, SET = range(5)
#: The names that `--merge COLUMN=NAME` and schema entries use, and the codes that patches use.
CODES = {"register": REGISTER, "text": TEXT, "json": JSON, "counter": COUNTER, "set": SET}
NAMES = {code: name for name, code in CODES.items()}


class Origin(NamedTuple):
    """Who wrote an entry, and when. Their natural order is the order in which concurrent writes win."""

    stamp: int
    writer: bytes
    seq: int


class Mergeable(Protocol):
    """A kind whose concurrent writes become one value: patches to a document, in any causal order."""

    @property
    def name(self) -> str:
        """The name that `--merge COLUMN=NAME` and schema entries use."""
        ...

    def start(self, value: Value, origin: Origin) -> bytes | None:
        """The document that a value begins, alike on every device; None if the value has no mergeable form."""
        ...

    def diff(self, state: bytes, value: Value, origin: Origin) -> bytes | None:
        """The patch that makes a document show a value; None if no patch can say it, b"" if it shows it already."""
        ...

    def merge(self, state: bytes, patch: bytes, origin: Origin) -> bytes:
        """The document with another's patch in it. Raises `Malformed` for bytes that no honest device writes."""
        ...

    def needs(self, patch: bytes, origin: Origin) -> Mapping[bytes, int]:
        """Of each writer that a patch speaks of, the latest entry: its author must have seen it. Raises `Malformed`."""
        ...

    def show(self, state: bytes) -> Value:
        """What the column holds."""
        ...


class Base(NamedTuple):
    """The write that began a document."""

    value: Value
    origin: Origin


class Edit(NamedTuple):
    """To make a document show a value. `state` is None while nothing but its base was written."""

    state: bytes | None
    base: Base
    value: Value
    origin: Origin


class Edited(NamedTuple):
    """The patch that does it, the document afterwards, and what it shows. No patch: the value begins a new document."""

    patch: bytes | None
    state: bytes
    shown: Value


class Merge(NamedTuple):
    """To put patches into a document, in causal order."""

    state: bytes | None
    base: Base
    patches: Sequence[tuple[bytes, Origin]]


class LeftOut(NamedTuple):
    """Whose patch is not in a document, and why."""

    origin: Origin
    reason: str


class Failure(NamedTuple):
    """Why a document is as it was; it alone is set aside. `left`, `tried`: as in `Merged`."""

    reason: str
    left: tuple[LeftOut, ...] = ()
    tried: bool = True


class Merged(NamedTuple):
    """The document afterwards, and what it shows.

    `left`: the patches that are not in it, without those that can never be because an earlier one of their author is
    not. With `tried`, they were found by trying: in another order, or beside other patches, it might have been others.
    """

    state: bytes
    shown: Value
    left: tuple[LeftOut, ...] = ()
    tried: bool = False


class Documents(Protocol):
    """A kind's documents, many at a time."""

    def milliseconds(self, job: Edit | Merge) -> float:
        """About how long a job takes; infinity where nobody can tell."""
        ...

    def edit(self, jobs: Sequence[Edit]) -> list[Edited | Failure]:
        """Make each document show a value."""
        ...

    def merge(self, jobs: Sequence[Merge]) -> list[Merged | Failure]:
        """Put patches into each document. Raises `Malformed` for a patch that no honest device writes."""
        ...

    def needs(self, patch: bytes, origin: Origin) -> Mapping[bytes, int]:
        """See `Mergeable.needs`."""
        ...


#: What a job costs of kinds that are written in Python, and each byte of it.
_JOB_MS, _BYTE_MS = 0.05, 0.001


class OneByOne:
    """The documents of a kind that is written in Python."""

    def __init__(self, kind: Mergeable) -> None:
        self._kind = kind

    def milliseconds(self, job: Edit | Merge) -> float:
        """By the bytes that are read and written; measured for JSON, at which nothing is slower."""
        start = job.base.value if job.state is None else job.state
        some = [job.value] if isinstance(job, Edit) else [patch for patch, _ in job.patches]
        sizes = [len(part) for part in (start, *some) if isinstance(part, str | bytes)]
        return _JOB_MS + sum(sizes) * _BYTE_MS

    def edit(self, jobs: Sequence[Edit]) -> list[Edited | Failure]:
        """Make each document show a value."""
        return [self._edit(job) for job in jobs]

    def merge(self, jobs: Sequence[Merge]) -> list[Merged | Failure]:
        """Put patches into each document. Raises `Malformed` for a patch that no honest device writes."""
        return [self._merge(job) for job in jobs]

    def needs(self, patch: bytes, origin: Origin) -> Mapping[bytes, int]:
        """See `Mergeable.needs`."""
        return self._kind.needs(patch, origin)

    def _edit(self, job: Edit) -> Edited:
        kind = self._kind
        state = job.state if job.state is not None else kind.start(*job.base)
        patch = None if state is None else kind.diff(state, job.value, job.origin)
        if state is None or patch is None:
            return Edited(None, b"", job.value)
        after = kind.merge(state, patch, job.origin) if patch else state
        return Edited(patch, after, kind.show(after))

    def _merge(self, job: Merge) -> Merged:
        kind = self._kind
        state = job.state if job.state is not None else kind.start(*job.base)
        if state is None:
            raise Malformed(f"a patch of kind {kind.name} to a value that has no such form")
        for patch, origin in job.patches:
            state = kind.merge(state, patch, origin) if patch else state
        return Merged(state, kind.show(state))


def code(name: str) -> int:
    """The code of the kind of that name; raises `Usage` for an unknown one."""
    try:
        return CODES[name]
    except KeyError:
        raise Usage(
            f"there is no merge kind {name!r}", f"Kinds of this version: {', '.join(CODES)}."
        ) from None


#: Affinities of columns that hold every value of a kind as it is.
_AFFINITIES = {
    REGISTER: ("TEXT", "BLOB", "INTEGER", "REAL", "NUMERIC"),
    TEXT: ("TEXT", "BLOB"),
    JSON: ("TEXT", "BLOB", "NUMERIC"),
    COUNTER: ("INTEGER", "REAL", "NUMERIC", "BLOB"),
    SET: ("TEXT", "BLOB", "NUMERIC"),
}


def suits(kind: int, affinity: str) -> bool:
    """Whether a column of that affinity can hold a kind's values."""
    return affinity in _AFFINITIES[kind]


def check_affinity(name: str, affinity: str, what: str) -> None:
    """Require that a column can hold a kind's values. Raises `Usage`, also for an unknown kind."""
    if not suits(code(name), affinity):
        needed = "number" if code(name) == COUNTER else "text"
        raise Usage(
            f"{what} cannot be a {name}: its type does not keep every {needed} as it is",
            "Choose another kind.",
        )


def documents(kind: int) -> Documents:
    """The documents of a kind that is written in Python: `json` or `set`. Raises `Malformed` for a code of no kind."""
    return OneByOne(_mergeable(kind))


def has_form(kind: int, value: Value) -> bool:
    """Whether a value can merge as that kind (other than `register` and `counter`)."""
    if kind == TEXT:
        return text.is_mergeable(value)
    return _mergeable(kind).start(value, Origin(0, bytes(WRITER_BYTES), 1)) is not None


def tidy(kind: int, value: Value) -> Value:
    """A value as a document that it begins shows it: a set sorts its elements, and has each once."""
    if kind != SET or value is None:
        return value
    from crdtlog.kinds import addset

    return addset.tidy(value)


def _mergeable(kind: int) -> Mergeable:
    if kind == JSON:
        from crdtlog.kinds.jsontree import JsonTree

        return JsonTree()
    if kind == SET:
        from crdtlog.kinds.addset import AddSet

        return AddSet()
    raise Malformed(f"a patch of a kind that this version does not know ({kind})")
