"""How jobs and answers cross the pipe: frames of four bytes of length and a msgpack array.

The worker is not trusted: bytes of other devices have been through the library in it. An answer is checked like
anything else that comes from outside.
"""

from typing import Any, NamedTuple, TypeVar, cast, get_args

import msgpack

from crdtlog.errors import Malformed
from crdtlog.kinds.text import (
    EditedText,
    EditText,
    Job,
    MergedText,
    MergeText,
    OpenedText,
    OpenText,
    Reason,
    Result,
    TextFailure,
)
from crdtlog.kinds.textdiff import Splice

#: A frame holds no more than a state and a text or two, each somewhat longer than the longest text.
MAX_FRAME_BYTES = 256 << 20
LENGTH_BYTES = 4
#: What the worker says once it is ready.
HELLO = b"crdtlog text worker 1\n"

_REASONS = frozenset(get_args(Reason))
_MAX_DETAIL = 500

T = TypeVar("T")


class Answer(NamedTuple):
    """A result, and whether the worker is about to leave because its memory may be damaged."""

    result: Result
    leaving: bool


def frame(message: list[Any]) -> bytes:
    """A message with its length before it."""
    body = cast(bytes, msgpack.packb(message))
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def pack_job(job: Job) -> bytes:
    """A job as a frame."""
    if isinstance(job, OpenText):
        return frame(["open", job.begun, job.base])
    if isinstance(job, EditText):
        return frame(["edit", job.begun, job.base, job.writer, job.value, job.splices])
    return frame(["merge", job.begun, job.base, list(job.patches)])


def unpack_job(body: bytes | bytearray) -> Job:
    """The job in a frame's body; the other side is this program."""
    kind, (writer, seq), base, *rest = msgpack.unpackb(body, raw=False)
    begun = (writer, seq)
    if kind == "open":
        return OpenText(begun, base)
    if kind == "edit":
        writer, value, splices = rest
        return EditText(begun, base, writer, value, splices and [Splice(*splice) for splice in splices])
    return MergeText(begun, base, [(by, patch) for by, patch in rest[0]])


def unpack_answer(body: bytes | bytearray, job: Job) -> Answer:
    """The answer to a job. Raises `Malformed` if it is none."""
    try:
        kind, leaving, *rest = msgpack.unpackb(body, raw=False, max_ext_len=0, max_map_len=0)
        return Answer(_result(kind, rest, job), _is(leaving, bool))
    except Exception as error:  # msgpack raises errors of several families
        raise Malformed(f"no answer to a job: {type(error).__name__}") from None


def _result(kind: Any, rest: list[Any], job: Job) -> Result:
    if kind == "failure":
        return _failure(*rest)
    if kind == "opened" and isinstance(job, OpenText):
        state, text = rest
        return OpenedText(_is(state, bytes), _is(text, str))
    if kind == "edited" and isinstance(job, EditText):
        patch, state = rest
        return EditedText(_is(patch, bytes), _is(state, bytes))
    if kind == "merged" and isinstance(job, MergeText):
        state, text, refused = rest
        why = {_is(at, int): _failure(*failure) for at, *failure in refused}
        if not why.keys() <= set(range(len(job.patches))):
            raise ValueError("places that are none")
        if len(why) == len(job.patches):
            return MergedText(None, None, why)
        return MergedText(_is(state, bytes), _is(text, bytes).decode(), why)
    raise ValueError(kind)


def _failure(reason: Any, detail: Any) -> TextFailure:
    if reason not in _REASONS:
        raise ValueError(reason)
    return TextFailure(reason, _is(detail, str)[:_MAX_DETAIL])


def _is(value: object, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError(type(value))
    return value
