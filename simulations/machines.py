"""Devices as people have them: a home, a file, and a daemon, driven through the command line as real processes."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

WAIT_S = 900


class Machine:
    """One device: a home, a file, and perhaps a running daemon."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.file = directory / f"{name}.db"
        self.environment = {**os.environ, "CRDTLOG_HOME": str(directory / f"home-{name}"), "NO_COLOR": "1"}
        self.daemon: subprocess.Popen[str] | None = None
        self.address = ""

    def command(self, *arguments: str) -> list[str]:
        """How to run the command line of this very installation."""
        return [sys.executable, "-m", "peers.cli", *arguments]

    def run(self, *arguments: str) -> str:
        """Run a command and return its standard output."""
        done = subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=WAIT_S
        )
        if done.returncode:
            raise RuntimeError(f"crdtlog {' '.join(arguments)} failed on {self.name}: {done.stderr}")
        return done.stdout

    def up(self, *arguments: str) -> None:
        """Start the daemon and learn its address."""
        self.daemon = subprocess.Popen(
            self.command("up", str(self.file), "--listen", "127.0.0.1:0", "--no-mdns", *arguments),
            env=self.environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        assert self.daemon.stderr is not None
        for line in self.daemon.stderr:
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            if found:
                self.address = f"127.0.0.1:{found[1]}"
                break
        threading.Thread(target=self.daemon.stderr.read, daemon=True).start()

    def down(self) -> None:
        """Stop the daemon cleanly."""
        if self.daemon is not None:
            self.daemon.send_signal(signal.SIGTERM)
            self.daemon.wait(30)
            self.daemon = None

    def peak_mib(self) -> float:
        """The daemon's largest resident size so far, in MiB."""
        assert self.daemon is not None
        status = Path(f"/proc/{self.daemon.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found[1]) / 1024 if found else float("nan")

    def cpu_seconds(self) -> float:
        """The processor time that the daemon has used so far."""
        assert self.daemon is not None
        fields = Path(f"/proc/{self.daemon.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def link_by_code(existing: Machine, joining: Machine) -> str:
    """Link a second device with a code, as two people at two keyboards would; returns the code."""
    pairing = subprocess.Popen(
        existing.command("pair", str(existing.file), "--yes"),
        env=existing.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert pairing.stdout is not None and pairing.stderr is not None
    code = pairing.stdout.readline().strip()
    if not code:
        raise RuntimeError(f"crdtlog pair failed: {pairing.stderr.read()}")
    joining.run("join", code, str(joining.file), "--device", joining.name, "--peer", existing.address)
    pairing.communicate(timeout=60)
    return code
