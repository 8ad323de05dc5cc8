"""Whatever bytes come, nothing but the documented error comes out: a part of the search, the same each time."""

import pytest

from tests.fuzz.runner import Finding, search
from tests.fuzz.targets import FAULTY, TARGETS
from tests.fuzz.trial import Target


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_nothing_but_the_documented_error_comes_out(target: Target) -> None:
    report = search(target.name, cases=target.cases)

    assert not report.findings, "\n".join(map(str, report.findings))
    assert report.cases == target.cases
    assert report.accepted, "seeds that are refused make poor cases"


# --- the search itself --------------------------------------------------------------------------------------------


def found(name: str, **more: float) -> Finding:
    """What the search finds in a reader that does harm."""
    (finding,) = search(name, cases=FAULTY[name].cases, **more).findings  # type: ignore[arg-type]
    return finding


def test_the_search_finds_an_error_that_is_not_documented_within_nested_structure() -> None:
    assert "TypeError" in found("faulty.deep").what


def test_the_search_finds_what_is_another_value_once_it_is_written_and_read_again() -> None:
    assert "another value" in found("faulty.forgets").what


@pytest.mark.parametrize(("name", "case", "seconds"), [("hangs", b"hang", 0.5), ("waits", b"wait", 0.05)])
def test_the_search_finds_a_case_that_hangs(name: str, case: bytes, seconds: float) -> None:
    finding = found(f"faulty.{name}", hang_seconds=seconds)

    assert finding.case == case
    assert "seconds" in finding.what
    assert "in read" in finding.what, "the report says where"


def test_the_search_finds_a_case_that_ends_the_process() -> None:
    finding = found("faulty.dies")

    assert finding.case == b"die"
    assert "ended the process" in finding.what


def test_the_search_finds_a_case_that_takes_too_much_memory() -> None:
    finding = found("faulty.swallows")

    assert finding.case == b"much"
    assert "MemoryError" in finding.what


def test_the_same_seed_makes_the_same_cases() -> None:
    one, two, other = (
        search("membership.record", cases=500, seed=seed)._replace(seconds=0) for seed in (1, 1, 2)
    )

    assert one == two
    assert one != other
