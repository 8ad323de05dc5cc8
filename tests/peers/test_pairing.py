"""Pairing: both believe each other, or nothing happens; no mutation, stranger or wrong guess gets in between."""

import json
import math
from pathlib import Path
from typing import Any

import msgpack
import pytest

from crdtlog import errors
from crdtlog.certificate import certificate_of
from crdtlog.device import device_from_secrets
from peers.identity import fingerprint
from peers.pairing import effects as pairing_effects
from peers.pairing import frames
from peers.pairing.machines import (
    CODE_SECONDS,
    STEP_SECONDS,
    Approve,
    Attempts,
    Burned,
    Close,
    Done,
    Failed,
    Joined,
    Offer,
    OfferState,
    Reason,
    Send,
    State,
)
from tests.peers.pairing_world import (
    CODE,
    DATABASE,
    LAPTOP,
    MALLORY,
    NOW,
    PHONE,
    REFERENCE,
    WELCOME,
    WRONG,
    Exchange,
    make_issuer,
    make_joiner,
    reason_of,
    seen,
    sent,
    wait_for_person,
)

# --- when all goes well -------------------------------------------------------------------------------------


def test_both_end_knowing_each_other() -> None:
    exchange = Exchange(make_issuer(), make_joiner()).run()

    certificate = certificate_of(PHONE)
    public = PHONE.public
    assert seen(exchange.issuer_saw, Approve) == [
        Approve(
            "phone",
            PHONE.id,
            fingerprint(certificate),
            public.sign_key,
            public.receive_key,
            certificate,
            "writer",
        )
    ]
    assert seen(exchange.joiner_saw, Joined) == [Joined(WELCOME, DATABASE, "writer", LAPTOP.public)]
    assert exchange.issuer_saw[-2:] == [Done(), Close()]
    assert exchange.joiner_saw[-1] == Close()
    assert exchange.reasons() == (None, None)
    assert len(exchange.frames) == 5


def test_a_welcome_may_be_8_mib_and_not_more() -> None:
    exchange = Exchange(make_issuer(), make_joiner())
    exchange.welcome = bytes(frames.MAX_WELCOME_BYTES)
    (joined,) = seen(exchange.run().joiner_saw, Joined)
    assert joined.welcome == exchange.welcome
    assert max(map(len, exchange.frames)) <= frames.MAX_FRAME_BYTES

    issuer, joiner = make_issuer(), make_joiner()
    wait_for_person(issuer, joiner)
    with pytest.raises(errors.TooLarge):
        issuer.approve(bytes(frames.MAX_WELCOME_BYTES + 1), NOW)
    assert sent(issuer.decline("", NOW))


def test_through_a_relay_neither_side_has_a_server_certificate() -> None:
    joiner = make_joiner(server_certificate=None)
    assert seen(Exchange(make_issuer(server_certificate=None), joiner).run().issuer_saw, Done)


def test_nothing_goes_out_before_the_person_agrees() -> None:
    issuer, joiner = make_issuer(), make_joiner()
    wait_for_person(issuer, joiner)
    assert joiner.state is State.WELCOME
    assert seen(joiner.receive(sent(issuer.approve(WELCOME, NOW)), NOW), Joined)


def test_what_goes_over_the_wire_hides_names_and_database() -> None:
    exchange = Exchange(make_issuer(), make_joiner()).run()
    secrets = [b"laptop", b"phone", DATABASE, WELCOME, LAPTOP.public.sign_key, PHONE.public.sign_key]
    assert not [secret for secret in secrets if secret in b"".join(exchange.frames)]


def test_keys_are_never_in_a_repr() -> None:
    issuer, joiner = make_issuer(), make_joiner()
    wait_for_person(issuer, joiner)
    shown = f"{vars(issuer)!r} {vars(joiner)!r}"
    for keys in (issuer._keys, joiner._keys):
        assert repr(keys.joiner_box) not in shown
    assert "zebra" not in shown


# --- when it does not ---------------------------------------------------------------------------------------


def test_a_wrong_code_burns_it_and_both_sides_say_so() -> None:
    offer = Offer(CODE, NOW + CODE_SECONDS)
    exchange = Exchange(make_issuer(offer), make_joiner(WRONG)).run()

    assert exchange.reasons() == (Reason.WRONG_CODE, Reason.WRONG_CODE)
    assert seen(exchange.issuer_saw, Burned) and offer.state is OfferState.BURNED and not offer.is_open(NOW)
    for saw in (exchange.issuer_saw, exchange.joiner_saw):
        (failed,) = seen(saw, Failed)
        assert "withdrawn" in failed.message and "crdtlog pair" in failed.hint
    again = Exchange(make_issuer(offer), make_joiner()).run()
    assert again.reasons() == (Reason.WITHDRAWN, Reason.WITHDRAWN)


def test_a_stranger_in_between_is_found_by_the_certificate_each_side_saw() -> None:
    offer = Offer(CODE, NOW + CODE_SECONDS)
    exchange = Exchange(make_issuer(offer), make_joiner(server_certificate=certificate_of(MALLORY))).run()

    assert exchange.reasons() == (Reason.WRONG_SERVER, Reason.WRONG_SERVER)
    assert offer.state is OfferState.BURNED and not seen(exchange.issuer_saw, Approve)


def test_a_stranger_cannot_hide_behind_a_relay() -> None:
    for issuer_has, joiner_has in ((certificate_of(LAPTOP), None), (None, certificate_of(LAPTOP))):
        issuer = make_issuer(server_certificate=issuer_has)
        exchange = Exchange(issuer, make_joiner(server_certificate=joiner_has)).run()
        assert exchange.reasons() == (Reason.WRONG_SERVER, Reason.WRONG_SERVER)


def test_the_issuer_must_own_the_certificate_tls_showed() -> None:
    foreign = certificate_of(MALLORY)
    exchange = Exchange(
        make_issuer(server_certificate=foreign), make_joiner(server_certificate=foreign)
    ).run()
    assert exchange.reasons()[1] is Reason.WRONG_SERVER and not seen(exchange.joiner_saw, Joined)


def test_an_impostor_who_does_not_know_the_code_is_never_believed() -> None:
    impostor = make_issuer(Offer(WRONG, NOW + CODE_SECONDS), MALLORY)
    joiner = make_joiner(server_certificate=certificate_of(MALLORY))
    impostor.receive(sent(joiner.start(NOW)), NOW)
    joiner.receive(impostor._reply, NOW)
    impostor._joiner_statement = joiner._statement  # let it know even that
    effects = joiner.receive(impostor._welcome_frame(WELCOME), NOW)
    assert reason_of(effects) is Reason.UNCONFIRMED and not seen(effects, Joined)


@pytest.mark.parametrize("change", [{"database_id": bytes(32)}, {"role": "admin"}, {"blind": bytes(32)}])
def test_the_issuer_cannot_change_its_offer_after_committing_to_it(change: dict[str, Any]) -> None:
    issuer, joiner = make_issuer(), make_joiner()
    wait_for_person(issuer, joiner)
    issuer._grant = issuer._grant._replace(**change)
    assert reason_of(joiner.receive(sent(issuer.approve(WELCOME, NOW)), NOW)) is Reason.UNCONFIRMED


def test_the_joiner_stops_after_three_devices_that_do_not_know_the_code() -> None:
    attempts = Attempts()
    offers = [Offer(WRONG, NOW + CODE_SECONDS) for _ in range(4)]
    outcomes = [Exchange(make_issuer(offer), make_joiner(attempts=attempts)).run() for offer in offers]

    assert [outcome.reasons()[1] for outcome in outcomes] == [Reason.WRONG_CODE] * 3 + [
        Reason.TOO_MANY_ATTEMPTS
    ]
    assert outcomes[3].reasons()[0] is Reason.TOO_MANY_ATTEMPTS
    assert [offer.state for offer in offers] == [OfferState.BURNED] * 3 + [OfferState.OPEN]


def test_silence_after_a_confirmation_counts_as_an_attempt_too() -> None:
    attempts = Attempts()
    issuer, joiner = make_issuer(), make_joiner(attempts=attempts)
    joiner.receive(sent(issuer.receive(sent(joiner.start(NOW)), NOW)), NOW)
    assert reason_of(joiner.lost()) is Reason.LOST and attempts.left == 2


def test_declining_tells_the_joiner_why_and_uses_up_the_code() -> None:
    offer = Offer(CODE, NOW + CODE_SECONDS)
    exchange = Exchange(make_issuer(offer), make_joiner())
    exchange.welcome = None
    exchange.run()

    assert exchange.reasons() == (Reason.DECLINED, Reason.DECLINED)
    assert "ask me first" in seen(exchange.joiner_saw, Failed)[0].message
    assert offer.state is OfferState.USED and not seen(exchange.joiner_saw, Joined)


def test_a_used_code_is_refused_as_used() -> None:
    offer = Offer(CODE, NOW + CODE_SECONDS)
    Exchange(make_issuer(offer), make_joiner()).run()
    again = Exchange(make_issuer(offer), make_joiner(device=MALLORY)).run()
    assert again.reasons() == (Reason.USED, Reason.USED)


def test_a_code_expires_after_ten_minutes() -> None:
    last = NOW + CODE_SECONDS - 1
    offer = Offer(CODE, NOW + CODE_SECONDS)
    assert Exchange(make_issuer(offer, now=last), make_joiner()).run(last).reasons() == (None, None)
    late = Exchange(make_issuer(Offer(CODE, last + 1), now=last + 1), make_joiner()).run(last + 1)
    assert late.reasons() == (Reason.EXPIRED, Reason.EXPIRED)


def test_a_code_expires_while_the_person_thinks() -> None:
    issuer, joiner = make_issuer(), make_joiner()
    wait_for_person(issuer, joiner)
    assert issuer.deadline == NOW + CODE_SECONDS
    effects = issuer.approve(WELCOME, issuer.deadline)
    assert reason_of(effects) is Reason.EXPIRED
    assert reason_of(joiner.receive(sent(effects), NOW + CODE_SECONDS)) is Reason.EXPIRED


def test_a_joiner_who_falls_silent_frees_the_code() -> None:
    offer = Offer(CODE, NOW + CODE_SECONDS)
    issuer = make_issuer(offer)
    issuer.receive(sent(make_joiner().start(NOW)), NOW)
    assert issuer.tick(issuer.deadline - 1) == []
    assert reason_of(issuer.tick(issuer.deadline)) is Reason.TIMEOUT
    assert issuer.deadline == math.inf and offer.is_open(NOW)
    assert seen(Exchange(make_issuer(offer), make_joiner()).run().issuer_saw, Done)


def test_a_connection_that_says_nothing_gives_its_place_back_and_leaves_the_code_to_who_holds_it() -> None:
    offer = Offer(CODE, NOW + CODE_SECONDS)
    silent, issuer, joiner = make_issuer(offer), make_issuer(offer), make_joiner()
    wait_for_person(issuer, joiner)
    assert silent.tick(NOW + STEP_SECONDS - 1) == []

    effects = silent.tick(NOW + STEP_SECONDS)

    assert reason_of(effects) is Reason.TIMEOUT and isinstance(effects[-1], Close)
    assert offer.state is OfferState.IN_USE
    assert seen(joiner.receive(sent(issuer.approve(WELCOME, NOW)), NOW), Joined)


def test_a_second_joiner_is_refused_as_in_use_and_the_first_goes_on() -> None:
    offer = Offer(CODE, NOW + CODE_SECONDS)
    first, joiner = make_issuer(offer), make_joiner()
    wait_for_person(first, joiner)

    second = Exchange(make_issuer(offer), make_joiner(WRONG, MALLORY)).run()

    assert second.reasons() == (Reason.IN_USE, Reason.IN_USE) and not seen(second.issuer_saw, Burned)
    assert offer.state is OfferState.IN_USE
    assert seen(joiner.receive(sent(first.approve(WELCOME, NOW)), NOW), Joined)


def test_a_lost_connection_before_approval_leaves_the_code_open_and_after_it_not() -> None:
    offer = Offer(CODE, NOW + CODE_SECONDS)
    issuer = make_issuer(offer)
    wait_for_person(issuer, make_joiner())
    assert reason_of(issuer.lost()) is Reason.LOST and offer.is_open(NOW)
    assert issuer.approve(WELCOME, NOW) == []  # the person was too late: nothing is sent

    issuer = make_issuer(offer)
    wait_for_person(issuer, make_joiner())
    issuer.approve(WELCOME, NOW)
    assert reason_of(issuer.lost()) is Reason.LOST and offer.state is OfferState.USED


def test_a_connection_lost_during_adoption_does_not_undo_it() -> None:
    issuer, joiner = make_issuer(), make_joiner()
    wait_for_person(issuer, joiner)
    joiner.receive(sent(issuer.approve(WELCOME, NOW)), NOW)
    assert joiner.lost() == [] and joiner.finished(None) == []


def test_a_joiner_that_cannot_adopt_tells_the_issuer_why() -> None:
    exchange = Exchange(make_issuer(), make_joiner())
    exchange.adoption_error = "table notes has no primary key\x1b[2J" + "!" * 1000
    exchange.run()
    (failed,) = seen(exchange.issuer_saw, Failed)
    assert failed.reason is Reason.NOT_ADOPTED and "no primary key" in failed.message
    assert "\x1b" not in failed.message and len(failed.message) < 700
    assert not seen(exchange.issuer_saw, Done)


def test_a_copied_home_cannot_join_itself() -> None:
    exchange = Exchange(make_issuer(), make_joiner(device=LAPTOP)).run()
    assert exchange.reasons() == (Reason.SAME_DEVICE, Reason.SAME_DEVICE)
    assert "CRDTLOG_HOME" in seen(exchange.joiner_saw, Failed)[0].hint


def test_a_joiner_must_own_its_certificate() -> None:
    exchange = Exchange(make_issuer(), make_joiner(certificate=certificate_of(MALLORY))).run()
    assert exchange.reasons()[0] is Reason.MALFORMED and not seen(exchange.issuer_saw, Approve)


def test_a_receive_key_that_keeps_no_secret_is_refused() -> None:
    weak = device_from_secrets("phone", b"p" * 32, b"q" * 32)
    object.__setattr__(weak, "public", weak.public._replace(receive_key=bytes(32)))
    exchange = Exchange(make_issuer(), make_joiner(device=weak)).run()
    assert exchange.reasons()[0] is Reason.MALFORMED and not seen(exchange.issuer_saw, Approve)


def test_commands_in_the_wrong_place_are_the_drivers_mistake() -> None:
    with pytest.raises(RuntimeError):
        make_issuer().approve(WELCOME, NOW)
    with pytest.raises(RuntimeError):
        make_joiner().finished(None)


def test_every_reason_has_words_for_both_sides() -> None:
    for words in (pairing_effects.FOR_ISSUER, pairing_effects.FOR_JOINER):
        assert set(words) == set(Reason)
    assert isinstance(Failed(Reason.LOST, "gone", "").error(), errors.Temporary)
    assert isinstance(Failed(Reason.USED, "used", "").error(), errors.PairingFailed)


# --- versions -----------------------------------------------------------------------------------------------


def test_a_newer_joiner_is_told_our_versions_even_if_its_hello_looks_different() -> None:
    offer = Offer(CODE, NOW + CODE_SECONDS)
    issuer = make_issuer(offer)
    effects = issuer.receive(frames.encode_frame(frames.FrameKind.HELLO, [7, 8], None, b"new", 3), NOW)
    assert reason_of(effects) is Reason.VERSION and "7, 8" in seen(effects, Failed)[0].message
    assert msgpack.unpackb(sent(effects)) == [0, "version", [1]]
    assert offer.state is OfferState.OPEN


def test_a_newer_issuer_is_refused_with_a_clear_word() -> None:
    joiner = make_joiner()
    joiner.start(NOW)
    effects = joiner.receive(frames.encode_frame(frames.FrameKind.REPLY, 9, "something else"), NOW)
    assert reason_of(effects) is Reason.VERSION and "Update" in seen(effects, Failed)[0].hint


def test_a_refusal_by_version_names_both_sides_versions() -> None:
    joiner = make_joiner()
    joiner.start(NOW)
    effects = joiner.receive(frames.encode_frame(frames.FrameKind.REFUSE, "version", [2, 3]), NOW)
    assert "version 2, 3, this one with 1" in seen(effects, Failed)[0].message
    assert effects[-1] == Close() and not seen(effects, Send)


def test_offering_more_versions_is_fine() -> None:
    joiner = make_joiner()
    joiner._hello = frames.encode_frame(frames.FrameKind.HELLO, [1, 2], joiner._spake2.message)
    assert seen(Exchange(make_issuer(), joiner).run().issuer_saw, Done)


# --- the wire -----------------------------------------------------------------------------------------------


def test_an_exchange_with_fixed_randomness_stays_the_same_to_the_bit() -> None:
    path = Path(__file__).parents[1] / "vectors" / "pairing.json"
    vector = json.loads(path.read_text())
    assert [str(CODE), DATABASE.hex(), WELCOME.hex()] == [
        vector[key] for key in ("code", "database", "welcome")
    ]
    assert [frame.hex() for frame in REFERENCE] == vector["frames"]
