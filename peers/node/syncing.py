"""Syncing when somebody asks: reach every device and relay that can be reached, until all hold the same.

Knows what a sharing offers. Must not know how devices are dialled or relays are used.
"""

import asyncio
from typing import Any

from crdtlog.errors import NoPeer, PeerRefused
from peers.node.sharing import Sharing

SIGHTING_SECONDS = 3.0
"""How long a sync waits for devices to be found on the local network."""


async def sync(sharing: Sharing, timeout_s: float | None) -> dict[str, Any]:
    """Reach every device that can be reached, and return when all of them hold the same as this one.

    Each device's `state` is `equal`, `behind` (it was reached, but time ran out), `relay` (it was not reached, and
    everything was exchanged with a relay) or `unreachable`. Raises `NoPeer` if there are other devices and neither one
    of them nor a relay was reached, and `PeerRefused` if this device was removed.
    """
    was_removed = sharing.was_removed
    await sharing.file.drain()
    try:
        async with asyncio.timeout(timeout_s):
            sharing.relays.poke()
            await _reach_all(sharing)
            await sharing.wait_for(
                lambda: (
                    (_all_equal(sharing) and sharing.relays.is_settled)
                    or (sharing.was_removed and not was_removed)  # it may have been let in again meanwhile
                )
            )
    except TimeoutError:
        pass
    own, members = sharing.file.device.id, sharing.file.facts.members
    devices = [_state(sharing, member.device) for member in members if member.device != own]
    relays = sharing.relays.sync_states()
    if sharing.was_removed:
        raise PeerRefused(
            f"this device was removed from {sharing.file.path.name}: nothing of it is exchanged any more",
            f"Who did it: crdtlog devices {sharing.file.path} --all. An admin can let it in again: crdtlog pair",
        )
    if devices and all(found["state"] == "unreachable" for found in (*devices, *relays)):
        raise _nobody(sharing, devices)
    is_complete = all(device["state"] in ("equal", "relay") for device in devices)
    return {"complete": is_complete, "devices": devices, "relays": relays}


def _nobody(sharing: Sharing, devices: list[dict[str, Any]]) -> NoPeer:
    path = sharing.file.path
    reasons = "; ".join(f"{device['name']}: {str(device['why']).rstrip('.')}" for device in devices)
    if all(bytes.fromhex(device["id"]) in sharing.problems for device in devices):
        return NoPeer(
            f"no other device of {path.name} would exchange it with this device: {reasons}",
            "Look on an admin's device who belongs: crdtlog devices FILE --all. "
            "If this device should, let it in again: crdtlog pair FILE",
        )
    return NoPeer(
        f"no other device of {path.name} could be reached: {reasons}",
        f"Start `crdtlog up` there, or name its address: crdtlog up {path} --peer HOST:PORT",
    )


async def _reach_all(sharing: Sharing) -> None:
    await sharing.dialer.try_all()
    if sharing.uses_mdns and not _all_linked(sharing):
        try:
            async with asyncio.timeout(SIGHTING_SECONDS):
                await sharing.wait_for(lambda: _all_linked(sharing))
        except TimeoutError:
            await sharing.dialer.try_all()


def _all_linked(sharing: Sharing) -> bool:
    return {m.device for m in sharing.file.facts.members} <= {*sharing.links, sharing.file.device.id}


def _all_equal(sharing: Sharing) -> bool:
    links = sharing.links.values()
    return all(link.is_equal or link.stalled for link in links) and (
        sharing.is_settled or not (sharing.relays.is_exchanged or any(link.is_equal for link in links))
    )


def _state(sharing: Sharing, device: bytes) -> dict[str, Any]:
    link = sharing.links.get(device)
    named = {"id": device.hex(), "name": sharing.name_of(device)}
    if (link is not None and link.is_equal) or device in sharing.know_we_left:
        return {**named, "state": "equal", "why": None}
    if link is not None:
        waits = (
            "an admin's device has to give this one what there is"
            if sharing.file.facts.awaits_snapshot
            else ""
        )
        return {**named, "state": "behind", "why": link.stalled or waits or "not done in the time given"}
    if sharing.relays.is_exchanged:
        return {**named, "state": "relay", "why": None}
    error = sharing.dialer.why_unreachable(device)
    why = sharing.problems.get(device) or (str(error) if error else "no address of it is known")
    return {**named, "state": "unreachable", "why": why}
