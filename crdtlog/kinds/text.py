"""Text that merges character by character: what can be asked of it, without the library that does it.

A text's document begins with a plain value, from which every device makes the same document; its name is the dot of the
write that began it. Patches, each by one writer, change it. The work is done in another process (crdtlog/textworker),
because no bytes of another device may reach the library in this one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from crdtlog.kinds.textdiff import Splice
from crdtlog.values import Value, is_plain_text

Dot = tuple[bytes, int]
"""A writer's 24 bytes and the sequence number of its entry."""

TextBase = bytes | str
"""A document: its state, or the plain text that it began with while nobody has patched it.

A state is a Yjs update, version 1, of a document whose root `text` is a Y.Text, so that Yjs programs can read it.
"""

#: A longer text (in UTF-8) has no mergeable form.
MAX_TEXT_BYTES = 16 << 20
#: What patches may make of a text. It must hold what several devices insert without knowing of one another: a set of
#: patches that one device can merge, all must.
MAX_MERGED_BYTES = 64 << 20


def is_mergeable(value: Value) -> bool:
    """Whether a value has a mergeable form: valid text that is not too long. All others stay plain values."""
    if type(value) is not str or len(value) > MAX_TEXT_BYTES or not is_plain_text(value):
        return False
    return len(value) * 4 <= MAX_TEXT_BYTES or len(value.encode()) <= MAX_TEXT_BYTES


@dataclass(frozen=True, slots=True)
class OpenText:
    """Asks for the state and the text of a document: `OpenedText`."""

    begun: Dot
    base: TextBase


@dataclass(frozen=True, slots=True)
class EditText:
    """Asks for `writer`'s patch that makes a document show `value`, which must be mergeable: `EditedText`.

    `splices` is how the text became `value`; None: find a short way.
    """

    begun: Dot
    base: TextBase
    writer: bytes
    value: str
    splices: Sequence[Splice] | None = None


@dataclass(frozen=True, slots=True)
class MergeText:
    """Asks to merge patches, each with its writer: `MergedText`. Their order is free, but for those of one writer."""

    begun: Dot
    base: TextBase
    patches: Sequence[tuple[bytes, bytes]]


class OpenedText(NamedTuple):
    """A document's state, and the text that it shows."""

    state: bytes
    text: str


class EditedText(NamedTuple):
    """The patch to send (empty if the value shows already), and the state with it."""

    patch: bytes
    state: bytes


Reason = Literal["malformed", "missing", "too large", "unreadable", "crashed", "hung", "memory"]


class TextFailure(NamedTuple):
    """Why something could not be done.

    `malformed`: bytes that no honest device writes. `missing`: a patch that builds on something that is not there, or
    stands behind one of its writer's that was refused. `too large`: beyond what can be merged. `unreadable`: the
    document itself is damaged. `crashed`, `hung`, `memory`: what it did to a worker that had done nothing else.
    """

    reason: Reason
    detail: str


class MergedText(NamedTuple):
    """State and text with all patches but the refused ones, which are named by their place.

    If every patch was refused, state and text are None: the document is what it was. `tried`: some were refused for
    what they did and not for what they say; in another order, or beside other patches, it might have been others.
    """

    state: bytes | None
    text: str | None
    refused: dict[int, TextFailure]
    tried: bool = False


Job = OpenText | EditText | MergeText
Result = OpenedText | EditedText | MergedText | TextFailure
