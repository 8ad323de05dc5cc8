"""Somebody else's database, whole: eleven tables, integer and composite keys, foreign keys, edits on two devices."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulations.machines import Machine, link_by_code

EDITS_ON_SHOP = (
    "UPDATE Track SET UnitPrice = UnitPrice + 1 WHERE GenreId = 1",
    "UPDATE Customer SET Company = 'Rhythm & Blues' WHERE CustomerId = 5",
    "INSERT INTO Artist (ArtistId, Name) VALUES (9001, 'Ada and the Engines')",
    "DELETE FROM PlaylistTrack WHERE PlaylistId = 1 AND TrackId % 2 = 0",
    "INSERT OR REPLACE INTO Genre (GenreId, Name) VALUES (1, 'Rock and roll')",
)
EDITS_ON_VAN = (
    "UPDATE Track SET Composer = 'unknown' WHERE Composer IS NULL",
    "UPDATE Customer SET Company = 'Blues & Rhythm' WHERE CustomerId = 5",
    "INSERT INTO Album (AlbumId, Title, ArtistId) VALUES (9002, 'Notes', 1)",
    "UPDATE InvoiceLine SET Quantity = 2 WHERE InvoiceLineId < 100",
    "DELETE FROM Playlist WHERE PlaylistId = 2",
)


@pytest.fixture
def machines(tmp_path: Path, chinook: Path) -> Iterator[tuple[Machine, Machine]]:
    shop, van = Machine(tmp_path, "shop"), Machine(tmp_path, "van")
    chinook.rename(shop.file)
    try:
        yield shop, van
    finally:
        shop.down()
        van.down()


def tables(machine: Machine) -> dict[str, list[tuple[object, ...]]]:
    with sqlite3.connect(machine.file, timeout=10) as connection:
        names = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if not name.startswith(("crdtlog_", "sqlite_"))
        ]
        found = {name: sorted(connection.execute(f'SELECT * FROM "{name}"'), key=repr) for name in names}
    connection.close()
    return found


def wait_until_equal(a: Machine, b: Machine) -> None:
    limit = time.monotonic() + 60
    while tables(a) != tables(b):
        assert time.monotonic() < limit, "the two files still differ"
        time.sleep(0.1)


def write(machine: Machine, statements: tuple[str, ...]) -> None:
    connection = sqlite3.connect(machine.file, isolation_level=None, timeout=10)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_the_whole_of_chinook_is_shared_with_an_empty_device_and_edited_on_both(
    machines: tuple[Machine, Machine],
) -> None:
    shop, van = machines
    original = tables(shop)
    shop.run("init", str(shop.file), "--device", "shop")
    shop.up()
    link_by_code(shop, van)

    assert tables(van) == original
    assert sum(map(len, original.values())) > 15_000

    write(shop, EDITS_ON_SHOP)
    write(van, EDITS_ON_VAN)
    van.up("--peer", shop.address)
    wait_until_equal(shop, van)

    states = [machine.run("verify", str(machine.file)) for machine in machines]
    assert states[0] == states[1]
    assert states[0].startswith("ok")
    assert "Rhythm & Blues" in shop.run("conflicts", str(shop.file))
