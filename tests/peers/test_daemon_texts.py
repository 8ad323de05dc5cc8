"""A daemon as a process of its own, and texts that hurt the library behind them: it goes on syncing all other rows."""

from peers.control import Client
from tests.crdtlog import poison
from tests.peers.cli_devices import eventually
from tests.peers.cli_world import finished, program
from tests.peers.lying_texts import lie, merging, opened
from tests.peers.nodes import Machine, linked, run
from tests.peers.processes import Daemon


def join(laptop: Machine, phone: Machine) -> None:
    """Link the devices, and wait until the phone has what the laptop has."""

    async def scenario() -> None:
        async with linked(laptop, phone):
            pass

    run(scenario())
    assert phone.notes() == laptop.notes()


def test_a_daemon_survives_what_hurts_the_library_for_real(laptop: Machine, phone: Machine) -> None:
    """The laptop's worker reads nothing first, so that each patch of the phone's reaches the library."""
    merging(laptop)
    patches = {known.name: known.patch for known in poison.small_poisons() if known.name in poison.KINDS}
    assert sorted(patches) == sorted(poison.KINDS)
    patches["computes for ever"] = b"compute for ever"
    for key in ("good", *patches):
        laptop.write(key, "a title")
    join(laptop, phone)

    with (
        Daemon(laptop, laptop.path, module="tests.peers.unguarded_daemon") as daemon,
        Daemon(phone, phone.path, peers=[daemon.address]),
    ):
        said = "a title"
        for number, (key, patch) in enumerate(patches.items(), 1):
            with opened(phone) as db:
                lie(db, key, patch, number)
            # While the patch does its harm, and after it: both ways, in new rows and in one text.
            laptop.write(f"laptop {number}", "from the laptop")
            laptop.sql("UPDATE notes SET title = ? || title WHERE id = 'good'", f"{number} ")
            phone.write(f"phone {number}", "from the phone")
            phone.sql("UPDATE notes SET title = title || ? WHERE id = 'good'", f" {number}")
            said = f"{number} {said} {number}"
            for device in (laptop, phone):
                eventually(
                    lambda device=device, said=said: device.notes()["good"] == said,  # type: ignore[misc]
                    f"{device.name} has both edits of the other text after {key}",
                )
                assert {f"laptop {number}", f"phone {number}"} <= device.notes().keys()
            assert laptop.sql("SELECT stars FROM notes WHERE id = 'good'") == [(number,)]
            assert daemon.process.poll() is None

        home = str(laptop.home.path)
        doctor = finished(program("doctor", laptop.path, "--json", CRDTLOG_HOME=home))
        with Client.connect(laptop.home) as client:
            assert client.request("status")["pid"] == daemon.process.pid
        daemon.process.terminate()
        assert daemon.process.wait(20) == 0

    told = [finding["message"] for finding in doctor.json["findings"] if finding["name"] == "merging"]
    for key in patches:
        (found,) = [message for message in told if f"(row {key})" in message]
        assert "a change by phone" in found
    # It was the library that failed, and not a reader before it.
    assert any("crashed" in message for message in told) and any("hung" in message for message in told)
    assert [laptop.notes()[key] for key in patches] == ["a title"] * len(patches)
