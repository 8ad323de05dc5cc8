"""What tests of the engine share: a world of devices that is closed at the end, and three devices of which one lies."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crdtlog.devices import World, quick_directory
from tests.crdtlog.liar import Three, made_three


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


@pytest.fixture
def three() -> Iterator[Three]:
    with quick_directory() as directory, World(directory) as world:
        yield made_three(world)
