"""Hostile records: what a member may not do to the membership and to the schema."""

from contextlib import suppress
from typing import Any

import pytest

from crdtlog import membership, tracking
from crdtlog.errors import CrdtlogError
from crdtlog.values import pack
from tests.crdtlog.devices import (
    apply_all,
)
from tests.crdtlog.liar import Three, next_entry, refused, signed, table_id

# --- membership and schema ----------------------------------------------------------------------------------------


def newcomer(**changes: Any) -> list[Any]:
    fields = {"name": "mole", "role": "admin", "sign": b"s" * 32, "receive": b"r" * 32, "certificate": b"c"}
    return list({**fields, **changes}.values())


@pytest.mark.parametrize(
    "content",
    [
        ["add", newcomer(name="")],
        ["add", newcomer(name="\x1b[2J")],
        ["add", newcomer(name=7)],
        ["add", newcomer(role="king")],
        ["add", newcomer(sign=b"short")],
        ["add", newcomer(receive=None)],
        ["add", newcomer(certificate=b"")],
        ["add", newcomer()[:4]],
        ["genesis", b"garbage"],
        ["remove", newcomer()],
        ["add"],
    ],
    ids=repr,
)
def test_a_membership_record_that_is_none(three: Three, content: Any) -> None:
    refused(three, signed(three.liar, next_entry(three.liar, pack(content), kind="member")))


def test_a_second_founding(three: Three) -> None:
    genesis = membership.Genesis(b"n" * 16, membership.newcomer_from(newcomer()), None)
    raw = membership.encode_content(membership.Founding(membership.encode_genesis(genesis)))
    refused(three, signed(three.liar, next_entry(three.liar, raw, kind="member")))


def test_a_member_cannot_rename_or_rekey_another_by_adding_it_again(three: Three) -> None:
    """The certificate and receiving key of a device that is there already are its own affair."""
    liar, honest, other = three
    key = other.device.public.sign_key
    raw = pack(
        ["add", newcomer(sign=key, name="renamed", role="reader", receive=b"liar" * 8, certificate=b"liar's")]
    )

    with suppress(CrdtlogError):
        apply_all(honest, [signed(liar, next_entry(liar, raw, kind="member"))])

    (member,) = [member for member in honest.members() if member.device == other.device.id]
    assert member.receive_key == other.device.public.receive_key
    assert member.certificate != b"liar's"


def column(
    name: str, key: int = 0, kind: str = "TEXT", default: Any = None, generated: Any = None
) -> list[Any]:
    return [name, kind, False, default, key, "BINARY", generated, False, "BINARY", False]


def description(name: str, *columns: list[Any], indexes: Any = ()) -> list[Any]:
    return [1, name, list(columns), False, False, False, [], list(indexes)]


@pytest.mark.parametrize(
    "wire",
    [
        description("crdtlog__meta", column("id", 1)),
        description("sqlite_master", column("id", 1)),
        description("SQLITE_sequence", column("id", 1)),
        description("x", column("id")),
        description("x", column("id", 1), column("v", default="(SELECT 1)")),
        description("x", column("id", 1), column("v", default="load_extension('x')")),
        description("x", column("id", 1), column("v", generated="randomblob(9)")),
        description("x", column("id", 1), column("v", generated="(SELECT count(*) FROM t)")),
        description("x", column("id", 1), column('v"); DROP TABLE t; --', kind="TEXT) ; DROP TABLE t; --")),
        description("x", column("id", 1), indexes=[["crdtlog__i", [["id", False, "BINARY", False]], None]]),
        description("x", column("id", 1), indexes=[["i", [["readfile('x')", True, "BINARY", False]], None]]),
        description("x", column("id", 1), column("ID")),
        description("", *[]),
        [2, *description("x", column("id", 1))[1:]],
        description("x", *[column(f"c{n}", 1 if n == 0 else 0) for n in range(3_000)]),
        "text",
        None,
    ],
    ids=lambda wire: repr(wire)[:50],
)
def test_a_table_description_that_could_do_harm(three: Three, wire: Any) -> None:
    # Under the id that its name has: what is refused is the description.
    named = isinstance(wire, list) and isinstance(wire[1], str)
    identity = tracking.table_id(three.liar.id, wire[1]) if named else b"newtable"
    raw = pack(["track", identity, wire, []])
    refused(three, signed(three.liar, next_entry(three.liar, raw, kind="schema")))
    assert three.honest.execute("SELECT count(*) FROM sqlite_master WHERE name = 'x'").fetchone() == (0,)


@pytest.mark.parametrize("fits", [True, False], ids=["that fits", "that does not fit"])
@pytest.mark.parametrize("name", ["t", "T", "x"])
def test_a_second_description_under_one_name_or_id(three: Three, name: str, fits: bool) -> None:
    """A table's id follows from its name: two ids for one table would have every change captured twice."""
    identity = table_id(three.liar, "t") if name == "x" else b"another!"
    number = column("n", kind="INTEGER")
    number[2] = True
    wire = description(name, column("id", 1), column("v", kind=""), *([number] if fits else []))
    refused(
        three, signed(three.liar, next_entry(three.liar, pack(["track", identity, wire, []]), kind="schema"))
    )
