"""Patches and payloads that were written once are read for ever, and put together they show the same.

`tests/vectors/merging.json`: for each kind a base value and patches by some authors, in hexadecimal, with what shows
once all are merged; and payloads of data entries that hold patches.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from crdtlog import kinds
from crdtlog.kinds import COUNTER, TEXT, Base, Documents, Merge, Merged, Origin, counter
from crdtlog.payload import UPDATE, Patch, Section, decode_data, encode_data
from crdtlog.texts import TextDocuments

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "merging.json").read_text())


def origin_of(item: list[Any]) -> Origin:
    """A stamp, a writer in hexadecimal, and a sequence number."""
    return Origin(item[0], bytes.fromhex(item[1]), item[2])


@pytest.fixture(scope="module")
def documents() -> Iterator[Callable[[int], Documents]]:
    """A kind's documents by its code."""
    with closing(TextDocuments()) as texts:
        yield lambda kind: texts if kind == TEXT else kinds.documents(kind)


@pytest.mark.parametrize("vector", VECTORS["documents"], ids=lambda vector: vector["name"])
def test_patches_of_any_earlier_version_show_what_they_showed(
    vector: dict[str, Any], documents: Callable[[int], Documents]
) -> None:
    base = Base(vector["base"], origin_of(vector["origin"]))
    patches = [(bytes.fromhex(patch), origin_of(origin)) for patch, origin in vector["patches"]]
    for order in permutations(patches):
        if vector["kind"] == COUNTER:
            added = counter.ZERO
            begun = None
            for patch, origin in order:
                added = counter.add(added, counter.decode(patch))
                if (before := counter.decode_before(patch)) is not None:
                    item = counter.Begun(origin.stamp, origin.writer, before)
                    begun = max(begun or item, item)
            if begun:
                added = counter.Sum(added.total - begun.before, added.real)
            shown = counter.shown(base.value, added)
        else:
            (merged,) = documents(vector["kind"]).merge([Merge(None, base, order)])
            assert isinstance(merged, Merged)
            shown = merged.shown
        assert shown == vector["shown"]


@pytest.mark.parametrize("vector", VECTORS["payloads"], ids=lambda vector: vector["name"])
def test_payloads_with_patches_are_read_and_written_to_the_bit(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["raw"])
    (section,) = decode_data(raw, 1_000, 2_000).sections
    assert section == Section(
        b"table id",
        UPDATE,
        (2, 3),
        [["a", "b"]],
        [[None, "plain"], [7, None]],
        [1_000, 1_001],
        patches={
            2: [Patch(2, b"w" * 24, 5, b"json"), None],
            3: [None, Patch(3, b"v" * 24, 6, b"step")],
        },
        counters=(3,),
    )
    assert encode_data([section], 1_000) == raw
