"""Sessions in fleets: in any order of events, wherever connections break, all end with the same."""

from collections.abc import Callable
from functools import partial
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from peers.session.machine import Limits
from tests.peers.session_world import SMALL, Device, connect, cut, run, steps

SIZES = (0, 10, 300, 900, 5_000)  # of payloads: from many a batch to more than a window
LIMITS = (SMALL, Limits(window_bytes=600, window_batches=1, batch_bytes=300), Limits())

links = st.lists(st.integers(0, 10), min_size=1, max_size=3)
schedules = st.lists(st.integers(0, 2**16), max_size=150)


class Fleet:
    """Devices in a connected graph. Each device after the first is linked to an earlier one; some more links."""

    def __init__(self, parents: list[int], more: list[int], limits: list[int]) -> None:
        number = len(parents) + 1
        self.devices = [Device(f"d{i}", limits=LIMITS[limits[i] % len(LIMITS)]) for i in range(number)]
        pairs = list(combinations(range(number), 2))
        tree = {(parent % child, child) for child, parent in enumerate(parents, 1)}
        self.links = sorted(tree | {pairs[extra % len(pairs)] for extra in more})

    def everything(self, choice: int) -> list[Callable[[], None]]:
        """All that could happen now, faults included."""
        possible = steps(end for device in self.devices for end in device.ends)
        possible *= 2  # progress is likelier than trouble, or nothing would get far
        payload = bytes(SIZES[choice % len(SIZES)])
        for device in self.devices:
            possible.append(partial(device.write, payload))
            possible.append(partial(device.write, payload, notify=False))
        for a, b in self.links:
            possible.append(partial(self.toggle, a, b))
        return possible

    def toggle(self, a: int, b: int) -> None:
        left, right = self.devices[a], self.devices[b]
        for end in left.ends:
            if end.other.device is right:
                return cut(end)
        connect(left, right)

    def settle(self) -> None:
        """Faults stop: every link comes up, everybody hears of their own log."""
        for a, b in self.links:
            if all(end.other.device is not self.devices[b] for end in self.devices[a].ends):
                connect(self.devices[a], self.devices[b])
        for device in self.devices:
            device.notify()
        run(*self.devices)


@given(
    links,
    st.lists(st.integers(0, 5), max_size=3),
    st.lists(st.integers(0, 2), min_size=4, max_size=4),
    schedules,
)
def test_all_devices_end_with_the_same_whatever_happens_in_between(
    parents: list[int], more: list[int], limits: list[int], schedule: list[int]
) -> None:
    fleet = Fleet(parents, more, limits)
    for choice in schedule:
        possible = fleet.everything(choice)
        possible[choice % len(possible)]()

    fleet.settle()

    final = fleet.devices[0].log.vector
    for device in fleet.devices:
        assert device.log.vector == final
        for end in device.ends:
            assert end.closed is None
            assert end.caught_up and end.caught_up[-1] == final, "both sides know that they are done"


@given(st.lists(st.sampled_from(SIZES), max_size=30), st.lists(st.sampled_from(SIZES), max_size=30))
def test_a_device_that_was_away_catches_up_in_one_session(here: list[int], there: list[int]) -> None:
    a, b = Device("a"), Device("b")
    for device, sizes in ((a, here), (b, there)):
        for size in sizes:
            device.write(bytes(size))

    connect(a, b)
    run(a, b)

    assert a.log.vector == b.log.vector
    assert len(a.log.entries) == len(here) + len(there)


def test_devices_that_never_meet_converge_through_a_third() -> None:
    a, b, c = Device("a"), Device("b"), Device("c")
    connect(a, b)
    connect(b, c)
    run(a, b, c)

    a.write(b"from a")
    c.write(b"from c")
    run(a, b, c)

    assert a.log.vector == b.log.vector == c.log.vector
    assert len(a.log.entries) == 2


def test_what_one_peer_brought_another_need_not_send() -> None:
    a, b, c = Device("a"), Device("b"), Device("c")
    for _ in range(100):
        a.write(bytes(300))
    connect(a, b)
    run(a, b)
    cut(a.ends[0])
    connect(a, c)
    connect(b, c)

    run(a, b, c)

    received = sum(len(frame) for end in c.ends for frame in end.other.frames)
    assert c.log.vector == a.log.vector
    assert received < 1.5 * 100 * 500, "not everything came twice"
