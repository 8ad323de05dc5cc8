"""Which elements of an array are still the same, when a program has written the whole array anew.

`align` finds elements that did not change, `pair` finds, among those that did, an old and a new form of one element.
Both answer pairs of positions that rise together, so an element that changed its place is matched at most once and is
otherwise one that went and one that came. What they do beyond linear work is bounded by an `Effort` that all arrays of
a document share; when it is spent, matches that are quick to find must do.
"""

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Pairs = list[tuple[int, int]]

#: Members that tell an object from others like it; objects that differ in one of them are never one element.
IDENTITIES = ("id", "_id", "uuid", "key")
#: A member that tells objects apart but may itself be edited.
NAME = "name"

_MAX_COMPARED = 2_500


@dataclass(slots=True)
class Effort:
    """Steps that may still be spent on finding more matches."""

    left: int = 400_000

    def take(self, steps: int) -> bool:
        """Spend some steps, if there are that many."""
        if steps > self.left:
            return False
        self.left -= steps
        return True


class Traits(NamedTuple):
    """What is compared of a changed element: its shape, the identities among its members, and what it holds."""

    shape: str
    names: Mapping[str, str]
    holds: frozenset[Hashable]


def align(old: Sequence[Hashable], new: Sequence[Hashable], effort: Effort) -> Pairs:
    """Pairs of equal elements, as many as can be found at bounded cost."""
    start = 0
    while start < len(old) and start < len(new) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    middle = _middle(old[start : len(old) - end], new[start : len(new) - end], effort)
    return [
        *((at, at) for at in range(start)),
        *((start + i, start + j) for i, j in middle),
        *((len(old) - at, len(new) - at) for at in range(end, 0, -1)),
    ]


def gaps(pairs: Pairs, old: int, new: int) -> Iterable[tuple[int, int, int, int]]:
    """Where nothing is matched: start and end in the old sequence, start and end in the new one."""
    i = j = 0
    for next_i, next_j in [*pairs, (old, new)]:
        if next_i > i or next_j > j:
            yield i, next_i, j, next_j
        i, j = next_i + 1, next_j + 1


def pair(old: Sequence[Traits], new: Sequence[Traits], effort: Effort) -> Pairs:
    """Pairs of an element's old and new form, within one gap between unchanged elements."""
    if len(old) * len(new) <= _MAX_COMPARED and effort.take(len(old) * len(new)):
        return _best(old, new)
    where = {name: j for j, name in enumerate(_identities(new)) if name is not None}
    named = enumerate(_identities(old))
    anchors = _rising([(i, where[name]) for i, name in named if name in where])
    pairs = list(anchors)
    for i, i2, j, j2 in gaps(anchors, len(old), len(new)):
        if (i2 - i) * (j2 - j) <= _MAX_COMPARED and effort.take((i2 - i) * (j2 - j)):
            pairs += [(i + x, j + y) for x, y in _best(old[i:i2], new[j:j2])]
        elif i2 - i == j2 - j:
            pairs += [(i + at, j + at) for at in range(i2 - i) if _likeness(old[i + at], new[j + at], True)]
    return sorted(pairs)


def _middle(old: Sequence[Hashable], new: Sequence[Hashable], effort: Effort) -> Pairs:
    if not old or not new:
        return []
    where = {key: j for j, key in enumerate(new)}
    if len(where) == len(new) and len(set(old)) == len(old):
        return _rising([(i, where[key]) for i, key in enumerate(old) if key in where])
    found = _shortest_edit(old, new, effort)
    if found is not None:
        return found
    # Too different for that: the first of a kind stays the first, the second the second.
    return _middle(_numbered(old), _numbered(new), effort)


def _numbered(keys: Sequence[Hashable]) -> list[Hashable]:
    count: dict[Hashable, int] = {}
    numbered: list[Hashable] = []
    for key in keys:
        count[key] = count.get(key, 0) + 1
        numbered.append((key, count[key]))
    return numbered


def _rising(pairs: Pairs) -> Pairs:
    """The longest choice of pairs, sorted by their first, whose second rise too (Schensted 1961)."""
    ends: list[int] = []
    chain: list[int] = []
    before: list[int] = []
    for at, (_, j) in enumerate(pairs):
        length = bisect_left(ends, j)
        before.append(chain[length - 1] if length else -1)
        if length == len(ends):
            ends.append(j)
            chain.append(at)
        else:
            ends[length] = j
            chain[length] = at
    rising: Pairs = []
    at = chain[-1] if chain else -1
    while at >= 0:
        rising.append(pairs[at])
        at = before[at]
    return rising[::-1]


def _shortest_edit(old: Sequence[Hashable], new: Sequence[Hashable], effort: Effort) -> Pairs | None:
    """A longest common subsequence (Myers 1986), or None if it takes too many steps."""
    furthest = {1: 0}
    trace: list[dict[int, int]] = []
    for distance in range(len(old) + len(new) + 1):
        if not effort.take(2 * distance):
            return None
        trace.append(furthest.copy())
        for k in range(-distance, distance + 1, 2):
            down = k == -distance or (k != distance and furthest[k - 1] < furthest[k + 1])
            i = start = furthest[k + 1] if down else furthest[k - 1] + 1
            while i < len(old) and i - k < len(new) and old[i] == new[i - k]:
                i += 1
            if not effort.take(i - start):
                return None
            furthest[k] = i
            if i >= len(old) and i - k >= len(new):
                return _walk_back(trace, len(old), len(new))
    return []


def _walk_back(trace: list[dict[int, int]], i: int, j: int) -> Pairs:
    pairs: Pairs = []
    for distance in range(len(trace) - 1, -1, -1):
        furthest, k = trace[distance], i - j
        down = k == -distance or (k != distance and furthest[k - 1] < furthest[k + 1])
        came_k = k + 1 if down else k - 1
        came_i = furthest[came_k]
        came_j = came_i - came_k
        while i > max(came_i, 0) and j > max(came_j, 0):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        i, j = came_i, came_j
    return pairs[::-1]


def _best(old: Sequence[Traits], new: Sequence[Traits]) -> Pairs:
    """The rising pairs whose likeness sums up highest."""
    same_length = len(old) == len(new)
    rows = [[0] * (len(new) + 1)]
    for i, mine in enumerate(old):
        likes = [_likeness(mine, other, same_length and i == j) for j, other in enumerate(new)]
        above, row = rows[-1], [0]
        for j, like in enumerate(likes):
            row.append(max(above[j + 1], row[j], above[j] + like if like else 0))
        rows.append(row)
    pairs: Pairs = []
    i, j = len(old), len(new)
    while i and j:
        if rows[i][j] == rows[i - 1][j]:
            i -= 1
        elif rows[i][j] == rows[i][j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]


def _likeness(old: Traits, new: Traits, same_place: bool) -> int:
    """How much two changed elements look like one; 0 if they must not be taken for one."""
    if old.shape != new.shape:
        return 0
    for name in (*IDENTITIES, NAME):
        if name in old.names and name in new.names:
            if old.names[name] == new.names[name]:
                return 1_000_000 + len(old.holds & new.holds)
            if name != NAME:
                return 0
    common = len(old.holds & new.holds)
    alike = common and 2 * common >= max(len(old.holds), len(new.holds))
    return (10 * common if alike else 0) + same_place


def _identities(elements: Sequence[Traits]) -> list[Hashable]:
    """What names each element: its first identity, and which one it is of those that have the same; or None."""
    names: list[Hashable] = []
    count: dict[tuple[str, str], int] = {}
    for traits in elements:
        name = next(((key, traits.names[key]) for key in (*IDENTITIES, NAME) if key in traits.names), None)
        if name is not None:
            count[name] = count.get(name, 0) + 1
        names.append(name and (name, count[name]))
    return names
