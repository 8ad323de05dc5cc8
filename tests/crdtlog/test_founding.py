"""Founding a database with a recovery key: what the file names, and what never gets near it."""

from collections.abc import Callable
from pathlib import Path

import pytest

import crdtlog
from crdtlog import errors
from crdtlog.device import load_device
from crdtlog.members import newcomer_of
from crdtlog.recovery import RecoveryKey, read_words

KEY = RecoveryKey(bytes(range(32)))
Home = Callable[..., Path]


def everything_in(*directories: Path) -> bytes:
    """The bytes of all files below."""
    return b"".join(
        path.read_bytes() for each in directories for path in sorted(each.rglob("*")) if path.is_file()
    )


def test_the_founding_record_names_the_public_half_on_every_device(home: Home, tmp_path: Path) -> None:
    with crdtlog.open(tmp_path / "notes.db", home=home(), recovery=KEY.public) as database:
        assert database.recovery == KEY.public
    with crdtlog.open(tmp_path / "notes.db", home=home(), create=False) as database:
        assert database.recovery == KEY.public
        phone = load_device(crdtlog.Home(home("phone")).prepare(), name="phone")
        database.add_member(newcomer_of(phone, "writer"))
        welcome = database.welcome()
    with crdtlog.adopt(tmp_path / "copy.db", welcome, home=home("phone")) as copy:
        assert copy.recovery == KEY.public


def test_without_one_the_founding_record_names_none(home: Home, tmp_path: Path) -> None:
    with crdtlog.open(tmp_path / "notes.db", home=home()) as database:
        assert database.recovery is None


def test_a_database_that_is_there_keeps_its_own(home: Home, tmp_path: Path) -> None:
    other = crdtlog.new_recovery().public
    for first, then in ((KEY.public, other), (None, other), (KEY.public, None)):
        file = tmp_path / f"{first and first.hex()}-{then and then.hex()[:4]}.db"
        crdtlog.open(file, home=home(), recovery=first).close()
        with crdtlog.open(file, home=home(), recovery=then) as database:
            assert database.recovery == first


@pytest.mark.parametrize("wrong", [b"", b"k" * 31, b"k" * 33, KEY, "k" * 32, " ".join(KEY.words)])
def test_what_is_no_public_half_founds_nothing(home: Home, tmp_path: Path, wrong: bytes) -> None:
    with pytest.raises(errors.Usage, match="32 bytes") as caught:
        crdtlog.open(tmp_path / "notes.db", home=home(), recovery=wrong)

    assert not (tmp_path / "notes.db").exists()
    assert KEY.words[1] not in str(caught.value) + caught.value.hint


def test_new_keys_are_new_each_time_and_read_back() -> None:
    keys = [crdtlog.new_recovery() for _ in range(20)]

    assert len({key.public for key in keys}) == 20
    assert all(read_words(" ".join(key.words)) == key for key in keys)


def test_neither_the_file_nor_the_home_holds_the_private_half(home: Home, tmp_path: Path) -> None:
    with crdtlog.open(tmp_path / "notes.db", home=home(), recovery=KEY.public) as database:
        database.execute("CREATE TABLE notes (id TEXT PRIMARY KEY)")
        database.track("notes")
        held = everything_in(tmp_path, home())  # with what is in the write-ahead log
    held += everything_in(tmp_path, home())

    assert KEY.public in held
    assert bytes(range(32)) not in held and bytes(range(32)).hex().encode() not in held
    assert " ".join(KEY.words[:3]).encode() not in held
