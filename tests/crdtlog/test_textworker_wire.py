"""What the engine and the text worker tell each other: jobs arrive as they were, and what is no answer is refused."""

import pytest

from crdtlog.errors import Malformed
from crdtlog.kinds.text import EditText, Job, MergeText, OpenText
from crdtlog.textworker.wire import frame, pack_job, unpack_answer, unpack_job

BEGUN = (b"b" * 24, 7)
A = b"A" * 24
MERGE = MergeText(BEGUN, "one two", [(A, b"patch")])


@pytest.mark.parametrize(
    "job",
    [OpenText(BEGUN, "text"), OpenText(BEGUN, b"state"), EditText(BEGUN, b"s", A, "é\0"), MERGE],
    ids=str,
)
def test_jobs_cross_the_pipe(job: Job) -> None:
    assert unpack_job(pack_job(job)[4:]) == job


@pytest.mark.parametrize(
    "message",
    [
        [],
        ["opened"],
        ["edited", False, b"patch", b"state"],
        ["opened", False, b"state", b"not text"],
        ["opened", False, "not bytes", "text"],
        ["opened", 0, b"state", "text"],
        ["failure", False, "tired", ""],
        ["failure", False, "crashed", None],
        ["failure", False, "crashed"],
        "opened",
        None,
    ],
    ids=repr,
)
def test_an_answer_that_is_none_is_not_believed(message: list[object]) -> None:
    with pytest.raises(Malformed):
        unpack_answer(frame(message)[4:], OpenText(BEGUN, "text"))


@pytest.mark.parametrize(
    "message",
    [
        ["merged", False, b"state", b"text", [[2, "malformed", ""]]],
        ["merged", False, b"state", b"text", [[-1, "malformed", ""]]],
        ["merged", False, b"state", b"text", [["0", "malformed", ""]]],
        ["merged", False, b"state", b"text", [[0, "because", ""]]],
        ["merged", False, b"state", b"\xff", []],
        ["merged", False, None, None, []],
        ["opened", False, b"state", "text"],
    ],
    ids=repr,
)
def test_a_merge_that_is_none_is_not_believed(message: list[object]) -> None:
    with pytest.raises(Malformed):
        unpack_answer(frame(message)[4:], MERGE)
