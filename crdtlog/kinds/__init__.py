"""How a column's concurrent writes merge.

A kind is a small interface; `register` is its one case so far. Kinds are named in a table's schema entry, so every
device merges a column alike.
"""

from typing import Protocol

from crdtlog.errors import Usage


class Kind(Protocol):
    """One way of merging a column."""

    @property
    def name(self) -> str:
        """The name that `--merge COLUMN=NAME` and schema entries use."""
        ...


class Register:
    """A multi-value register: the latest version shows, concurrent ones are kept as conflicts."""

    name = "register"


KINDS: dict[str, Kind] = {"register": Register()}


def kind(name: str) -> Kind:
    """The kind of that name; raises `Usage` for an unknown one."""
    try:
        return KINDS[name]
    except KeyError:
        raise Usage(
            f"there is no merge kind {name!r}", f"Kinds of this version: {', '.join(KINDS)}."
        ) from None
