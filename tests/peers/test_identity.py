"""Certificates and TLS contexts, over real sockets on loopback."""

import os
import ssl
import stat
from collections.abc import Iterable
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from crdtlog import errors
from crdtlog.device import Home, device_from_secrets, load_device
from peers import identity
from peers.identity import Identity, client_context, pairing_context, server_context
from tests.peers.handshakes import (
    Meeting,
    custom_identity,
    make_identity,
    meet,
    name_of,
)

DEVICE = device_from_secrets("phone", bytes(range(32)), bytes(range(32, 64)))


@pytest.fixture
def server(tmp_path: Path) -> Identity:
    return make_identity(tmp_path / "server")


@pytest.fixture
def member(tmp_path: Path) -> Identity:
    return make_identity(tmp_path / "member")


def test_a_member_is_accepted_and_both_see_the_pinned_certificate(server: Identity, member: Identity) -> None:
    meeting = meet(server_context([member.certificate], server), client_context([server.certificate], member))
    assert meeting == Meeting(True, member.certificate, server.certificate)
    members = {b"member": member.certificate, b"server": server.certificate}
    assert identity.member_of(meeting.server_saw, members) == b"member"


def test_one_of_many_members_is_found(tmp_path: Path, server: Identity, member: Identity) -> None:
    others = [make_identity(tmp_path / str(n)).certificate for n in range(20)]
    accept, expect = [*others, member.certificate], [*others, server.certificate]
    assert meet(server_context(accept, server), client_context(expect, member)).answered


def test_a_stranger_is_refused_in_the_handshake(tmp_path: Path, server: Identity, member: Identity) -> None:
    stranger = make_identity(tmp_path / "stranger")
    for accepted in ([member.certificate], []):
        meeting = meet(server_context(accepted, server), client_context([server.certificate], stranger))
        assert not meeting.answered and meeting.server_saw is None


def test_who_shows_no_certificate_gets_in_as_nobody(server: Identity, member: Identity) -> None:
    for accepted in ([member.certificate], []):
        meeting = meet(server_context(accepted, server), pairing_context())
        assert meeting == Meeting(True, None, server.certificate)
        assert identity.member_of(meeting.server_saw, {b"member": member.certificate}) is None


def test_a_look_alike_with_the_same_name_and_another_key_is_refused(
    tmp_path: Path, server: Identity, member: Identity
) -> None:
    forged = custom_identity(tmp_path, common_name=name_of(member))
    assert not meet(
        server_context([member.certificate], server), client_context([server.certificate], forged)
    ).answered


def test_a_member_cannot_vouch_for_another_certificate(
    tmp_path: Path, server: Identity, member: Identity
) -> None:
    child = custom_identity(tmp_path, signer=member)
    assert not meet(
        server_context([member.certificate], server), client_context([server.certificate], child)
    ).answered


def test_the_wrong_listener_is_refused(tmp_path: Path, server: Identity, member: Identity) -> None:
    impostor = make_identity(tmp_path / "impostor")
    assert not meet(
        server_context([member.certificate], impostor), client_context([server.certificate], member)
    ).answered


def test_a_dialer_that_expects_nobody_accepts_nobody(server: Identity, member: Identity) -> None:
    assert not meet(server_context([member.certificate], server), client_context([], member)).answered


def test_an_authority_is_refused_even_if_listed(
    tmp_path: Path, server: Identity, member: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    authority = custom_identity(tmp_path, ca=True)
    accepted = [authority.certificate, member.certificate]
    context = server_context(accepted, server)
    assert "not trusted" in caplog.text
    for foreign in (authority, custom_identity(tmp_path, signer=authority)):
        assert not meet(context, client_context([server.certificate], foreign)).answered
    assert meet(context, client_context([server.certificate], member)).answered


def test_contexts_speak_only_tls_1_3(server: Identity) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.verify_mode = ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert not meet(server_context([], server), old).answered
    for context in (server_context([], server), client_context([], None), pairing_context()):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3


def test_a_certificate_follows_from_the_key_alone(tmp_path: Path) -> None:
    home = Home(tmp_path)
    device = load_device(home, name="one")
    first = identity.load_identity(home, device)
    first.pem_path.unlink()
    assert identity.load_identity(home, load_device(home, name="two")) == first
    assert identity.check_certificate(first.certificate) == device.public.sign_key
    if os.name == "posix":
        assert stat.S_IMODE(first.pem_path.stat().st_mode) == 0o600


def test_the_certificate_of_a_known_key_never_changes() -> None:
    expected = "3b3a5d43e20b29d068e47955cab8adf70571142f6479b0a0e1428f94a2a2f38b"
    assert identity.fingerprint(identity.certificate_of(DEVICE)).hex() == expected


def test_a_damaged_certificate_file_is_written_again(tmp_path: Path) -> None:
    home = Home(tmp_path)
    own = identity.load_identity(home, load_device(home))
    pem = own.pem_path.read_bytes()
    own.pem_path.write_bytes(b"rubbish")
    assert identity.load_identity(home, load_device(home)).pem_path.read_bytes() == pem


def test_a_certificate_holds_all_that_strict_verifiers_ask_for() -> None:
    certificate = x509.load_der_x509_certificate(identity.certificate_of(DEVICE))
    kinds = {type(extension.value) for extension in certificate.extensions}
    assert kinds == {x509.BasicConstraints, x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier}
    assert certificate.version is x509.Version.v3
    assert 0 < certificate.serial_number < 1 << 159


def shaped_wrongly(directory: Path) -> Iterable[tuple[str, bytes]]:
    yield "authority", custom_identity(directory, ca=True).certificate
    yield "name", custom_identity(directory, common_name="laptop").certificate
    yield "usage", custom_identity(directory, usage=True).certificate
    yield "signed by another", custom_identity(directory, signer=make_identity(directory / "m")).certificate
    yield "empty", b""
    yield "too large", b"\x30" * 5000
    yield "more behind", identity.certificate_of(DEVICE) + b"\0"


def test_certificates_of_another_shape_are_malformed(tmp_path: Path) -> None:
    for why, certificate in shaped_wrongly(tmp_path):
        with pytest.raises(errors.Malformed):
            identity.check_certificate(certificate)
            pytest.fail(f"accepted: {why}")


@given(st.integers(0, len(identity.certificate_of(DEVICE)) * 8 - 1))
def test_no_flipped_bit_leaves_a_certificate_acceptable(bit: int) -> None:
    certificate = bytearray(identity.certificate_of(DEVICE))
    certificate[bit // 8] ^= 1 << bit % 8
    with pytest.raises(errors.Malformed):
        identity.check_certificate(bytes(certificate))


@given(st.binary(max_size=600))
def test_foreign_bytes_are_no_certificate(data: bytes) -> None:
    with pytest.raises(errors.Malformed):
        identity.check_certificate(data)


def test_a_fingerprint_is_read_in_groups() -> None:
    assert identity.readable(bytes(range(32)), digits=12) == "0001 0203 0405"
    assert len(identity.readable(bytes(32)).split()) == 8
