"""Daemons as processes of their own, for tests that end them by signals or run them elsewhere."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from peers.control import Client
from tests.peers.nodes import SECONDS, Machine

ROOT = Path(__file__).resolve().parents[2]


class Daemon:
    """`crdtlog up` for a machine; a context manager that ends it."""

    def __init__(
        self,
        machine: Machine,
        *files: Path,
        peers: Sequence[str] = (),
        listen: str = "127.0.0.1:0",
        mdns: bool = False,
        prefix: Sequence[str] = (),
        module: str = "peers.cli",
    ) -> None:
        self._machine = machine
        self._log = machine.home.path / "daemon.log"
        command = [*prefix, sys.executable, "-m", module, "up", *map(str, files), "--listen", listen]
        for peer in peers:
            command += ["--peer", peer]
        if not mdns:
            command.append("--no-mdns")
        environment = {**os.environ, "CRDTLOG_HOME": str(machine.home.path), "PYTHONPATH": str(ROOT)}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
        try:
            self.wait_for_line("up, listening on")
        except BaseException:
            self.kill()
            raise

    @property
    def address(self) -> str:
        """Where it listens."""
        with Client.connect(self._machine.home) as client:
            return str(client.request("status")["listen"])

    def lines(self) -> list[str]:
        """What it has logged."""
        return self._log.read_text().splitlines()

    def wait_for_line(self, part: str) -> None:
        """Wait until it has logged a line with this in it."""
        limit = time.monotonic() + SECONDS
        while not any(part in line for line in self.lines()):
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < limit, self._log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
