"""Where secrets are, and where they are not: core files, files and their modes, logs, output, processes' arguments."""

import resource
import signal
from pathlib import Path

import pytest

from tests.peers.nodes import Machine
from tests.peers.processes import Daemon

LINUX = pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="there is no /proc here")


@LINUX
def test_a_crash_of_the_daemon_leaves_no_core_file(
    laptop: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        with Daemon(laptop, laptop.path) as daemon:
            limits = Path(f"/proc/{daemon.process.pid}/limits").read_text()
            daemon.process.send_signal(signal.SIGABRT)
            assert daemon.process.wait(20) == -signal.SIGABRT
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))

    (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert line.split()[4:6] == ["0", "0"], line
    assert [path.name for path in tmp_path.iterdir() if "core" in path.name] == []
