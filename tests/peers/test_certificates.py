"""Certificates that are not the pinned one, in real handshakes, dialling a member and being dialled by one."""

import datetime
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509

from crdtlog import errors
from peers import identity
from peers.identity import Identity, client_context, server_context
from tests.peers.handshakes import Meeting, custom_identity, key_of, make_identity, meet, name_of

PAST = datetime.datetime(2020, 1, 1)


def foreign(directory: Path, member: Identity) -> Identity:
    """Another device's, in all its parts as it should be."""
    return make_identity(directory / "foreign")


def look_alike(directory: Path, member: Identity) -> Identity:
    """The member's name, serial number, dates and key ids; only the key is another."""
    real = x509.load_der_x509_certificate(member.certificate)
    return custom_identity(
        directory,
        common_name=name_of(member),
        serial=real.serial_number,
        ids_of=key_of(member).public_key(),
    )


def expired(directory: Path, member: Identity) -> Identity:
    """Made for the member's name long ago, with another key."""
    return custom_identity(directory, common_name=name_of(member), until=PAST)


def authority(directory: Path, member: Identity) -> Identity:
    """An authority of the member's name."""
    return custom_identity(directory, common_name=name_of(member), ca=True)


def issued_by_authority(directory: Path, member: Identity) -> Identity:
    """Issued for the member's name by an authority of the member's name."""
    return custom_identity(directory, common_name=name_of(member), signer=authority(directory, member))


def vouched_for(directory: Path, member: Identity) -> Identity:
    """Issued by the member itself, for a key that is not the member's."""
    return custom_identity(directory, signer=member)


def expired_own(directory: Path, member: Identity) -> Identity:
    """The member's own key in a certificate that has expired."""
    return custom_identity(directory, key=key_of(member), until=PAST)


def renewed(directory: Path, member: Identity) -> Identity:
    """The member's own key in a certificate that differs from the pinned one by its serial number."""
    return custom_identity(directory, key=key_of(member), serial=7)


def own_authority(directory: Path, member: Identity) -> Identity:
    """The member's own key in a certificate that may issue others."""
    return custom_identity(directory, key=key_of(member), ca=True)


Forge = Callable[[Path, Identity], Identity]
NO_DEVICES = (
    look_alike,
    expired,
    authority,
    issued_by_authority,
    vouched_for,
    expired_own,
    own_authority,
)
ALL = (foreign, renewed, *NO_DEVICES)


@pytest.fixture
def server(tmp_path: Path) -> Identity:
    return make_identity(tmp_path / "server")


@pytest.fixture
def member(tmp_path: Path) -> Identity:
    return make_identity(tmp_path / "member")


@pytest.mark.parametrize("forge", ALL)
def test_whoever_dials_with_a_certificate_that_is_not_pinned_is_refused(
    tmp_path: Path, server: Identity, member: Identity, forge: Forge
) -> None:
    members = [member.certificate, server.certificate]

    meeting = meet(
        server_context(members, server), client_context([server.certificate], forge(tmp_path, member))
    )

    assert not meeting.answered and meeting.server_saw is None


@pytest.mark.parametrize("forge", ALL)
def test_whoever_answers_with_a_certificate_that_is_not_pinned_is_refused(
    tmp_path: Path, server: Identity, member: Identity, forge: Forge
) -> None:
    members = [member.certificate, server.certificate]

    meeting = meet(
        server_context([member.certificate], forge(tmp_path, server)), client_context(members, member)
    )

    assert meeting == Meeting(False, None, None)


@pytest.mark.parametrize("forge", NO_DEVICES)
def test_a_certificate_that_is_no_device_s_is_trusted_by_nobody_though_a_member_named_it(
    tmp_path: Path, server: Identity, member: Identity, forge: Forge
) -> None:
    forged = forge(tmp_path, member)
    dialled = meet(server_context([forged.certificate], server), client_context([server.certificate], forged))
    answered = meet(
        server_context([member.certificate], forged), client_context([forged.certificate], member)
    )

    assert not dialled.answered and dialled.server_saw is None
    assert answered == Meeting(False, None, None)


@pytest.mark.parametrize("forge", ALL)
def test_what_is_checked_again_after_the_handshake_is_the_whole_certificate(
    tmp_path: Path, member: Identity, forge: Forge
) -> None:
    """Whatever TLS may once let through, and whoever has been removed since."""
    forged = forge(tmp_path, member)

    assert identity.member_of(forged.certificate, {b"member": member.certificate}) is None
    assert identity.member_of(member.certificate, {b"member": member.certificate}) == b"member"


@pytest.mark.parametrize("forge", NO_DEVICES)
def test_a_certificate_that_is_no_device_s_is_malformed(
    tmp_path: Path, member: Identity, forge: Forge
) -> None:
    with pytest.raises(errors.Malformed):
        identity.check_certificate(forge(tmp_path, member).certificate)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_who_probes_a_listener_learns_its_certificate_and_nothing_of_other_members(
    server: Identity, member: Identity
) -> None:
    """A listener that asks for certificates could name those it accepts, and so tell anybody who belongs."""
    context = server_context([server.certificate, member.certificate], server)

    def answer(listening: socket.socket) -> None:
        accepted, _ = listening.accept()
        with accepted, suppress(OSError), context.wrap_socket(accepted, server_side=True) as wrapped:
            wrapped.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer, args=(listening,), daemon=True).start()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        probe = ["openssl", "s_client", "-tls1_3", "-connect", address]
        done = subprocess.run(probe, input="x", capture_output=True, text=True, timeout=20)

    assert name_of(server) in done.stdout and "No client certificate CA names sent" in done.stdout
    assert name_of(member) not in done.stdout
