"""Telling a device that was started again from two machines that run with its keys.

Knows the places that devices name when they connect. Must not know links. The one idea: one process of a home at a time
exchanges a file, and each has a place of its own, so that one whose place another has taken cannot come back, unless
both run: somebody has copied the home, or cloned the machine with all that would tell it from its copy.
"""

from collections import deque

from peers.session.greeting import home_of

MAX_REPLACED = 64
"""So many processes of a device are remembered that another one has replaced."""


class Places:
    """The place of every device, now and before."""

    def __init__(self) -> None:
        self._now: dict[bytes, bytes] = {}
        self._replaced: dict[bytes, deque[bytes]] = {}

    def note(self, device: bytes, place: bytes) -> None:
        """The device is at that place from now on."""
        before = self._now.get(device, place)
        self._now[device] = place
        if before != place:
            self._replaced.setdefault(device, deque(maxlen=MAX_REPLACED)).append(before)

    def is_copy(self, device: bytes, place: bytes, connected: bytes | None) -> bool:
        """Whether the device runs twice: it calls from there, while (if not None) it is `connected` from elsewhere."""
        is_elsewhere = connected is not None and home_of(connected) != home_of(place)
        return is_elsewhere or place in self._replaced.get(device, ())
