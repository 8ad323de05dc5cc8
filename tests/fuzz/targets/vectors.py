"""The golden vectors of tests/vectors, and what several targets need."""

import json
from pathlib import Path
from typing import Any

from crdtlog.certificate import certificate_of
from crdtlog.device import Device, device_from_secrets
from crdtlog.membership import Newcomer

LAPTOP = device_from_secrets("laptop", bytes(range(32)), bytes(range(32, 64)))
PHONE = device_from_secrets("Käthe’s phone", bytes(range(64, 96)), bytes(range(96, 128)))
DATABASE = bytes(range(100, 132))

_FOLDER = Path(__file__).resolve().parents[2] / "vectors"


def vectors(name: str) -> dict[str, Any]:
    """One file of vectors; byte strings are in hexadecimal."""
    content: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text())
    return content


def newcomer(device: Device, role: str) -> Newcomer:
    """A device as a membership record names it."""
    return Newcomer(
        device.name, role, device.public.sign_key, device.public.receive_key, certificate_of(device)
    )
