"""The rows that benchmarks and the demonstration write: id, title, body, done, prio, updated.

Made from a seed, so that two runs measure the same; words are drawn from a small vocabulary with a long tail, so that
text compresses about as notes do.
"""

import random
from typing import NamedTuple

SCHEMA = """CREATE TABLE notes (
    id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(16)))),
    title TEXT, body TEXT, done INTEGER, prio INTEGER, updated REAL)"""
INSERT = "INSERT INTO notes VALUES (?, ?, ?, ?, ?, ?)"

_SYLLABLES = (
    "ba be bo ca ce da de di fa fo ga go ha he ka ki la le lo ma me mi na no pa po ra re ri sa se so ta te ti to va "
    "vi wa zo"
)


class Note(NamedTuple):
    """One row."""

    id: str
    title: str
    body: str
    done: int
    prio: int
    updated: float


def notes(count: int, seed: int = 1) -> list[Note]:
    """That many rows with random 128-bit keys, about 200 bytes each."""
    rng = random.Random(seed)
    syllables = _SYLLABLES.split()
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(4_000)]
    weights = [1 / (rank + 10) for rank in range(len(words))]
    pool = rng.choices(words, weights, k=50_000)

    def text(low: int, high: int) -> str:
        start = rng.randrange(len(pool) - high)
        return " ".join(pool[start : start + rng.randint(low, high)])

    return [
        Note(
            f"{rng.getrandbits(128):032x}",
            text(2, 6),
            text(10, 30),
            rng.randint(0, 1),
            rng.randint(0, 5),
            1.7e9 + rng.random() * 1e7,
        )
        for _ in range(count)
    ]
