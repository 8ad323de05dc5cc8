"""What changed between two texts, as few small splices, at a cost that is bounded whatever the texts are.

The common beginning and end are found by comparing slices, so that a small edit of a large text costs a few passes in
C. What lies between is compared by lines; within what differs, by stretches of words, by words, by characters. At each
level the tokens that occur once in both texts anchor the comparison (patience diff), and the gaps between anchors are
solved exactly (Myers 1986) while that takes few steps. A level that is too large, or that runs out of steps, leaves its
span to be replaced whole: the answer becomes coarser, never wrong.

Positions count characters (code points), as Python does.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

#: More splices than this are joined, those with the smallest gaps first.
MAX_SPLICES = 1_000
#: Turns of inner loops that one comparison may take; about half a second.
MAX_STEPS = 1_000_000
#: Where more tokens than this differ between two anchors, Myers' algorithm gives up: its cost grows with the square.
MAX_DIFFERENT = 300
#: So few characters are not worth keeping between replacements of so many.
CRUMB, LONG = 3, 16
#: How far a splice may slide to a better place.
MAX_SLIDE = 200


class Splice(NamedTuple):
    """`deleted` characters of the old text, from `position` on, give way to `inserted`."""

    position: int
    deleted: int
    inserted: str


class Span(NamedTuple):
    """Items `a` to `b` of what was give way to items `c` to `d` of what is."""

    a: int
    b: int
    c: int
    d: int

    @property
    def size(self) -> int:
        """How much changes."""
        return max(self.b - self.a, self.d - self.c)


class Steps:
    """How many steps one comparison took, and how many it may take."""

    def __init__(self, limit: int = MAX_STEPS) -> None:
        self.limit = limit
        self.taken = 0

    def take(self, count: int) -> bool:
        """Account for `count` more steps; False if that is too many."""
        self.taken += count
        return self.taken <= self.limit


def splices(old: str, new: str, *, most: int = MAX_SPLICES, steps: Steps | None = None) -> list[Splice]:
    """The splices that turn `old` into `new`: ascending, apart from one another, all positions those of `old`."""
    spans = _refine(old, new, Span(0, len(old), 0, len(new)), 0, steps or Steps())
    spans = _slide(old, new, _join_nearest(_join_crumbs(old, new, spans), most))
    return [Splice(a, b - a, new[c:d]) for a, b, c, d in spans]


def apply(old: str, changes: Iterable[Splice]) -> str:
    """The text after some splices."""
    parts: list[str] = []
    done = 0
    for position, deleted, inserted in changes:
        parts += (old[done:position], inserted)
        done = position + deleted
    return "".join([*parts, old[done:]])


# --- the same beginning and the same end ------------------------------------------------------------------------------

Items = Sequence[str] | Sequence[int]


def common_prefix(x: Items, y: Items) -> int:
    """How many items two sequences share at their beginning. Compares slices, which double and then halve."""
    most = min(len(x), len(y))
    if x[:most] == y[:most]:
        return most
    same, step = 0, 64
    while x[same : same + step] == y[same : same + step]:
        same += step
        step *= 2
    while step > 1:
        step //= 2
        if x[same : same + step] == y[same : same + step]:
            same += step
    return same


def common_suffix(x: Items, y: Items) -> int:
    """How many items two sequences share at their end."""
    most = min(len(x), len(y))
    end_x, end_y = len(x), len(y)
    if x[end_x - most :] == y[end_y - most :]:
        return most
    same, step = 0, 64

    def alike() -> bool:
        low_x, low_y = max(end_x - same - step, 0), max(end_y - same - step, 0)
        return x[low_x : end_x - same] == y[low_y : end_y - same]

    while alike():
        same += step
        step *= 2
    while step > 1:
        step //= 2
        if alike():
            same += step
    return same


def _trim(old: Items, new: Items, span: Span) -> Span:
    """What is left of a span without the items that both sides begin and end with."""
    a, b, c, d = span
    head = common_prefix(old[a:b], new[c:d])
    tail = common_suffix(old[a + head : b], new[c + head : d])
    return Span(a + head, b - tail, c + head, d - tail)


# --- from coarse to fine ----------------------------------------------------------------------------------------------


class Level(NamedTuple):
    """One granularity: how to cut a text into tokens, and how many characters and tokens that is worth."""

    cut: Callable[[str], list[str]]
    most_characters: int


def _lines(text: str) -> list[str]:
    # Half a million tokens take as much memory as is reasonable: a text of nothing but line ends stays whole.
    return text.splitlines(keepends=True) if text.count("\n") + text.count("\r") <= 500_000 else [text]


LEVELS = (
    Level(_lines, 1 << 26),
    # Stretches of some twenty characters, up to the end of a word: after a change they fall in step again.
    Level(re.compile(r"(?s).{16}[^\s.,;>}]{0,64}[\s.,;>}]?|.+").findall, 1 << 24),
    Level(re.compile(r"\w+|\s+|[^\w\s]").findall, 1 << 20),
    Level(list, 800),
)


def _refine(old: str, new: str, span: Span, level: int, steps: Steps) -> list[Span]:
    a, b, c, d = span = _trim(old, new, span)
    if a == b or c == d:
        return [span] if b - a or d - c else []
    if level == len(LEVELS) or b - a + d - c > LEVELS[level].most_characters:
        return [span]
    was, now = LEVELS[level].cut(old[a:b]), LEVELS[level].cut(new[c:d])
    old_at = list(accumulate(map(len, was), initial=a))
    new_at = list(accumulate(map(len, now), initial=c))
    finer: list[Span] = []
    for hunk in _hunks(was, now, steps):
        inside = Span(old_at[hunk.a], old_at[hunk.b], new_at[hunk.c], new_at[hunk.d])
        finer += _refine(old, new, inside, level + 1, steps)
    # Lines that stayed are worth keeping whatever changed around them; single words and letters are not.
    return finer if level == 0 else _join_accidental(finer, span)


def _hunks(was: list[str], now: list[str], steps: Steps) -> list[Span]:
    """Which tokens give way to which, in ascending order."""
    numbers: dict[str, int] = {}
    x = [numbers.setdefault(token, len(numbers)) for token in was]
    y = [numbers.setdefault(token, len(numbers)) for token in now]
    done: list[Span] = []
    ahead = [Span(0, len(x), 0, len(y))]
    while ahead:
        a, b, c, d = span = _trim(x, y, ahead.pop())
        if a == b or c == d:
            done += [span] if b - a or d - c else []
            continue
        if not steps.take(b - a + d - c):
            done.append(span)
        elif anchors := _anchors(x[a:b], y[c:d]):
            corners = [(a, c), *((a + i, c + j) for i, j in anchors), (b, d)]
            gaps = [Span(a0, a1, c0, c1) for (a0, c0), (a1, c1) in pairwise(corners)]
            ahead += reversed(gaps)
        else:
            exact = _exact(x[a:b], y[c:d], steps)
            done += [span] if exact is None else [Span(a + i, a + j, c + k, c + m) for i, j, k, m in exact]
    return done


def _anchors(x: list[int], y: list[int]) -> list[tuple[int, int]]:
    """Places of tokens that occur once on each side: the longest choice that is in order on both."""
    once = {token for token, count in Counter(x).items() if count == 1}
    once &= {token for token, count in Counter(y).items() if count == 1}
    place = {token: j for j, token in enumerate(y) if token in once}
    ends: list[int] = []  # the least place at which an ordered choice of that length can end
    chain: list[tuple[int, int, int]] = []  # (i, j, index of the one before)
    last: list[int] = []
    for i, token in enumerate(x):
        if token in once:
            j = place[token]
            length = bisect_left(ends, j)
            chain.append((i, j, last[length - 1] if length else -1))
            ends[length : length + 1] = [j]
            last[length : length + 1] = [len(chain) - 1]
    found = []
    index = last[-1] if last else -1
    while index >= 0:
        i, j, index = chain[index]
        found.append((i, j))
    return found[::-1]


def _exact(x: list[int], y: list[int], steps: Steps) -> list[Span] | None:
    """The least that gives way (Myers' greedy algorithm), or None where that is too much to find out."""
    n, m = len(x), len(y)
    # Where less than half stays, little of it would be worth keeping.
    most = min((n + m) // 2 + 8, MAX_DIFFERENT)
    furthest = [-1] * (2 * most + 3)  # by k, the diagonal; negative ones count from the end
    furthest[1] = 0
    rounds: list[list[int]] = []
    for d in range(most + 1):
        rounds.append(furthest[: d + 2] + furthest[-d - 1 :])
        walked = 0
        for k in range(-d + 2 * max(0, d - m), d - 2 * max(0, d - n) + 1, 2):
            i, right = furthest[k + 1], furthest[k - 1] + 1
            if k != -d and (k == d or right > i):
                i = right
            start = i
            while i < n and i - k < m and x[i] == y[i - k]:
                i += 1
            furthest[k] = i
            walked += i - start + 1
            if i >= n and i - k >= m:
                steps.take(walked)
                return _way_back(rounds, n, m)
        if not steps.take(walked):
            return None
    return None


def _way_back(rounds: list[list[int]], i: int, j: int) -> list[Span]:
    """The spans on the way that the rounds found, those that touch joined."""
    spans: list[Span] = []
    for d in range(len(rounds) - 1, 0, -1):
        before = rounds[d]
        k = i - j
        down = k == -d or (k != d and before[k - 1] + 1 <= before[k + 1])
        i = before[k + 1] if down else before[k - 1]
        j = i - (k + 1 if down else k - 1)
        span = Span(i, i, j, j + 1) if down else Span(i, i + 1, j, j)
        if spans and (span.b, span.d) == (spans[-1].a, spans[-1].c):
            span = Span(span.a, spans[-1].b, span.c, spans.pop().d)
        spans.append(span)
    return spans[::-1]


# --- fewer and better -------------------------------------------------------------------------------------------------


def _join(left: Span, right: Span) -> Span:
    return Span(left.a, right.b, left.c, right.d)


def _join_accidental(spans: list[Span], whole: Span) -> list[Span]:
    """Join spans where what stayed between them is no longer than what changed on either side: letters that stayed by
    accident. Where that is most of what stayed of `whole`, it was written anew, and is one span."""
    kept: list[Span] = []
    for span in spans:
        while kept and span.a - kept[-1].b <= min(kept[-1].size, span.size):
            span = _join(kept.pop(), span)
        kept.append(span)
    stayed = whole.b - whole.a - sum(span.b - span.a for span in kept)
    return [whole] if len(kept) > 1 and stayed * 3 < whole.size else kept


def _join_crumbs(old: str, new: str, spans: list[Span]) -> list[Span]:
    """Let long replacements take the few characters that happen to stay beside them.

    A text that is written anew as a whole should be replaced as a whole: each crumb of an old version that stays would
    have to be kept apart from the rest for ever.
    """
    kept: list[Span] = []
    for span in spans:
        if kept and _is_long(kept[-1]) and _is_long(span) and span.a - kept[-1].b <= CRUMB:
            span = _join(kept.pop(), span)
        kept.append(span)
    if kept and _is_long(kept[0]) and kept[0].a <= CRUMB:
        kept[0] = _join(Span(0, 0, 0, 0), kept[0])
    if kept and _is_long(kept[-1]) and len(old) - kept[-1].b <= CRUMB:
        kept[-1] = _join(kept[-1], Span(len(old), len(old), len(new), len(new)))
    return kept


def _is_long(span: Span) -> bool:
    return min(span.b - span.a, span.d - span.c) >= LONG


def _join_nearest(spans: list[Span], most: int) -> list[Span]:
    """No more than `most` spans, joined where the gaps are smallest."""
    if len(spans) <= most:
        return spans
    gaps = sorted((right.a - left.b, at) for at, (left, right) in enumerate(pairwise(spans), 1))
    closed = {at for _, at in gaps[: len(spans) - most]}
    joined = [spans[0]]
    for at, span in enumerate(spans[1:], 1):
        if at in closed:
            joined[-1] = _join(joined[-1], span)
        else:
            joined.append(span)
    return joined


def _slide(old: str, new: str, spans: list[Span]) -> list[Span]:
    """Put each pure insertion or deletion where a person would say it is, if the same text allows several places.

    A line that is inserted after a similar one is that line, not the end of one and the beginning of the next: what
    others change in either of them meanwhile then stays with it.
    """
    slid: list[Span] = []
    for span in spans:
        lowest = slid[-1].b + 1 if slid else 0
        slid.append(span if span.a != span.b and span.c != span.d else _best_place(old, new, span, lowest))
    return slid


def _best_place(old: str, new: str, span: Span, lowest: int) -> Span:
    text, first, last = (new, span.c, span.d) if span.a == span.b else (old, span.a, span.b)
    best, best_at, at = _fitness(text, first), 0, 0
    while at < MAX_SLIDE and span.a - at > lowest and text[first - at - 1] == text[last - at - 1]:
        at += 1
        if (fitness := _fitness(text, first - at)) > best:
            best, best_at = fitness, at
    return Span(span.a - best_at, span.b - best_at, span.c - best_at, span.d - best_at)


def _fitness(text: str, first: int) -> int:
    """How well a span begins at this place: with a line, with a word after a space, or anyhow."""
    if first == 0 or text[first - 1] == "\n":
        return 2
    return int(text[first - 1].isspace() and not text[first].isspace())
