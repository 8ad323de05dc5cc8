"""A device's keys: made once, kept private, refused when damaged or open."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog import device as devices
from crdtlog import errors
from crdtlog.device import Home, load_device

posix_only = pytest.mark.skipif(os.name != "posix", reason="Windows has no permission bits")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@posix_only
def test_keys_are_made_once_in_private_files(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    first = load_device(home, name="laptop")
    again = load_device(home)
    assert (again.id, again.name, again.public) == (first.id, "laptop", first.public)
    assert mode_of(home.keys) == 0o700
    assert [(p.name, mode_of(p)) for p in home.keys.iterdir()] == [("device.json", 0o600)]


def test_an_id_is_the_hash_of_the_signing_key(tmp_path: Path) -> None:
    device = load_device(Home(tmp_path))
    assert device.id == devices.device_id(device.public.sign_key) == device.public.id
    assert len(device.id) == 16


def test_a_signature_holds_for_its_domain_and_body_only(tmp_path: Path) -> None:
    device = load_device(Home(tmp_path))
    signature = device.sign_bytes(b"crdtlog one", b"body")
    check = devices.verify_bytes
    assert check(device.public.sign_key, b"crdtlog one", b"body", signature)
    assert not check(device.public.sign_key, b"crdtlog two", b"body", signature)
    assert not check(device.public.sign_key, b"crdtlog one", b"bodY", signature)
    assert not check(device.public.receive_key, b"crdtlog one", b"body", signature)
    assert not check(b"short", b"crdtlog one", b"body", signature)
    assert not check(device.public.sign_key, b"crdtlog one", b"body", b"")


def test_a_repr_shows_no_secret(tmp_path: Path) -> None:
    home = Home(tmp_path)
    device = load_device(home)
    content = json.loads((home.keys / "device.json").read_bytes())
    shown = f"{device!r} {device} {device.public!r} {home!r}"
    raw = [device.sign.private_bytes_raw(), device.receive.private_bytes_raw()]
    assert not any(
        secret in shown for secret in (content["sign"], content["receive"], *(r.hex() for r in raw))
    )


@posix_only
def test_keys_that_others_may_read_are_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    home = Home(tmp_path)
    load_device(home)
    (home.keys / "device.json").chmod(0o640)
    with pytest.raises(errors.KeysUnusable, match="open to other users") as caught:
        load_device(home)
    assert "chmod 600" in caught.value.hint


@posix_only
def test_a_key_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    load_device(home)
    home.keys.chmod(0o770)
    with pytest.raises(errors.KeysUnusable) as caught:
        load_device(home)
    assert "chmod 700" in caught.value.hint


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b"nonsense", b'{"v": 1, "name": 3}', b"\xff\x00" * 50])
def test_damaged_keys_are_named_as_such(tmp_path: Path, damage: bytes) -> None:
    home = Home(tmp_path)
    load_device(home)
    devices.write_private(home.keys / "device.json", damage)
    with pytest.raises(errors.KeysUnusable, match="damaged") as caught:
        load_device(home)
    assert "backup" in caught.value.hint


def test_keys_of_a_newer_version_are_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(errors.Unsupported):
        devices.decode_key_file(b'{"v": 2, "whatever": true}')


REFERENCE = devices.device_from_secrets("phone", bytes(range(32)), bytes(range(32, 64)))


@given(st.integers(0, len(devices.encode_key_file(REFERENCE)) * 8 - 1))
def test_no_flipped_bit_in_a_key_file_yields_other_keys(bit: int) -> None:
    data = bytearray(devices.encode_key_file(REFERENCE))
    data[bit // 8] ^= 1 << bit % 8
    try:
        device = devices.decode_key_file(bytes(data))
    except (errors.Malformed, errors.Unsupported):
        return
    assert device.public[1:] == REFERENCE.public[1:]  # a flip in the name alone cannot be told


@given(st.binary(max_size=200))
def test_foreign_bytes_are_malformed_and_nothing_else(data: bytes) -> None:
    with pytest.raises((errors.Malformed, errors.Unsupported)):
        devices.decode_key_file(data)


def test_without_create_missing_keys_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(errors.KeysUnusable, match="no device keys"):
        load_device(Home(tmp_path / "none"), create=False)
    assert not (tmp_path / "none").exists()


def test_a_name_given_later_names_the_value_and_leaves_the_file(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first = load_device(home, name="laptop")
    renamed = load_device(home, name="desk")
    assert (renamed.name, renamed.id) == ("desk", first.id)
    assert load_device(home).name == "laptop"


@pytest.mark.parametrize("name", ["", " padded", "two\nlines", "\x1b[31mred", "x" * 65, "a\u202eb"])
def test_names_that_would_confuse_a_terminal_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.Usage):
        load_device(Home(tmp_path), name=name)


def test_the_default_name_is_always_a_name() -> None:
    assert devices.is_name(devices.default_name())


def test_processes_that_create_keys_at_once_end_with_one_key(tmp_path: Path) -> None:
    program = (
        "import sys; from crdtlog.device import Home, load_device; sys.stdin.read(1);"
        "print(load_device(Home(sys.argv[1])).id.hex())"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "home")]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
        for _ in range(4)
    ]
    for racer in racers:  # all have imported and wait for the byte
        assert racer.stdin is not None
        racer.stdin.write("x")
        racer.stdin.flush()
    assert len({racer.communicate()[0] for racer in racers}) == 1
    assert [p.name for p in (tmp_path / "home" / "keys").iterdir()] == ["device.json"]


def test_importing_the_module_does_not_load_cryptography() -> None:
    program = (
        "import sys, crdtlog.device; print('cryptography' in sys.modules, 'platformdirs' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["False", "False"]


def test_crdtlog_home_moves_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRDTLOG_HOME", str(tmp_path / "h"))
    home = Home.default().prepare()
    assert {home.keys.parent, home.state.parent, home.run.parent} == {tmp_path / "h"}
    assert home.keys.is_dir() and home.state.is_dir() and home.run.is_dir()
    assert Home.of(None) == Home.of(str(tmp_path / "h")) == Home.of(home) == home


@pytest.mark.skipif(sys.platform != "linux", reason="XDG directories are Linux's")
def test_the_default_home_follows_the_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRDTLOG_HOME", raising=False)
    for variable, place in [
        ("XDG_DATA_HOME", "data"),
        ("XDG_STATE_HOME", "state"),
        ("XDG_RUNTIME_DIR", "run"),
    ]:
        (tmp_path / place).mkdir(mode=0o700)
        monkeypatch.setenv(variable, str(tmp_path / place))
    home = Home.default()
    assert home.keys == tmp_path / "data" / "crdtlog" / "keys"
    assert (home.state, home.run) == (tmp_path / "state" / "crdtlog", tmp_path / "run" / "crdtlog")


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("not a directory")
    with pytest.raises(errors.ReadOnly, match=r"file|directory"):
        load_device(Home(tmp_path / "home"))


def test_creating_a_private_file_never_replaces_one(tmp_path: Path) -> None:
    assert devices.create_private(tmp_path / "f", b"first")
    assert not devices.create_private(tmp_path / "f", b"second")
    assert devices.read_private(tmp_path / "f") == b"first"
    devices.write_private(tmp_path / "f", b"third")
    assert devices.read_private(tmp_path / "f") == b"third"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
