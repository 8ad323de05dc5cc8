"""Search for bytes that do harm: `python -m tests.fuzz [--seconds N] [--target NAME] [--seed N]`."""

import argparse
import json
import random
import sys

from tests.fuzz.runner import Report, search, work
from tests.fuzz.targets import TARGETS
from tests.fuzz.trial import attempt


def main() -> int:
    """Search, print what was found, and return 1 if anything was."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together (60)")
    parser.add_argument(
        "--target", action="append", choices=sorted(TARGETS), help="only this one; may be repeated"
    )
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1 << 32), help="choose the same cases again"
    )
    parser.add_argument("--case", help="try one case, in hexadecimal, and let what comes out come out")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        json.dump(work(json.loads(given.job)), sys.stdout)
        return 0
    names = given.target or list(TARGETS)
    if given.case is not None:
        for name in names:
            print(f"{name}: {attempt(TARGETS[name].make(), bytes.fromhex(given.case))}")
        return 0
    print(f"{len(names)} targets, seed {given.seed}", flush=True)
    found = 0
    for name in names:
        report = search(name, seed=given.seed, seconds=given.seconds / len(names))
        show(report)
        found += len(report.findings)
    print(f"{found} findings" if found else "nothing but the documented errors came out")
    return 1 if found else 0


def show(report: Report) -> None:
    """Print what came of one target."""
    speed = report.cases / max(report.seconds, 0.001)
    print(
        f"{report.target:24} {report.cases:>9,} cases {speed:>8,.0f}/s  {report.accepted:>8,} accepted"
        f"  {report.outcomes:>4} outcomes  {len(report.findings)} findings",
        flush=True,
    )
    for finding in report.findings:
        print(finding, flush=True)


if __name__ == "__main__":
    sys.exit(main())
