"""Where secrets are, and where they are not: core files, files and their modes, logs, output, processes' arguments."""

import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest

import crdtlog
from crdtlog.device import Home, load_device
from tests.peers import cli_devices
from tests.peers.cli_devices import CODE, NOTES, eventually
from tests.peers.cli_world import TIMEOUT_S
from tests.peers.nodes import Machine
from tests.peers.processes import Daemon
from tests.peers.spelled import holds

LINUX = pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="there is no /proc here")

COMMANDS = [
    ("status",),
    ("status", "notes.db"),
    ("devices", "notes.db"),
    ("doctor",),
    ("doctor", "notes.db"),
    ("paths",),
    ("verify", "notes.db"),
    ("check", "notes.db"),
    ("log", "notes.db"),
    ("conflicts", "notes.db"),
    ("history", "notes.db", "notes", "a"),
    ("sync", "notes.db"),
]


class Watched(cli_devices.Machine):
    """A device whose programs log all they can, and of which everything that could be read is kept."""

    def __init__(self, name: str, directory: Path, umask: int, *, moved: bool) -> None:
        directory.mkdir()
        super().__init__(name, directory / "home", directory / "files")
        self.root = directory
        self.umask = umask
        self.moved = moved
        self.told: list[bytes] = []
        """What the programs printed, and what the system told others of them."""
        self.outputs: list[Path] = []

    @property
    def environment(self) -> dict[str, str]:
        own = {**super().environment, "PYTHONASYNCIODEBUG": "1", "HOME": str(self.home)}
        if not self.moved:
            own = {name: value for name, value in own.items() if not name.startswith("XDG_")}
            del own["CRDTLOG_HOME"]
        return own

    def own_home(self) -> Home:
        """Where keys and state are."""
        share, state = self.home / ".local/share/crdtlog", self.home / ".local/state/crdtlog"
        return Home(self.home) if self.moved else Home(share, state=state, run=state / "run")

    def start(self, *arguments: object, **streams: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.peers.verbose", *map(str, arguments)]
        self.outputs.append(self.root / f"{len(self.outputs)}.txt")
        with self.outputs[-1].open("w") as errors:
            process = subprocess.Popen(
                command,
                env=self.environment,
                cwd=self.files,
                text=True,
                umask=self.umask,
                **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": errors, **streams},
            )
        self.started.append(process)
        return process

    def said(self) -> str:
        """What the program that was started last has said on standard error."""
        return self.outputs[-1].read_text()

    def finish(self, process: subprocess.Popen[str], given: str | None = None) -> str:
        """Wait for a process to end well; what it printed."""
        out, _ = process.communicate(given, timeout=TIMEOUT_S)
        self.told.append(out.encode())
        assert process.returncode == 0, out + self.said()
        return out

    def everything(self) -> bytes:
        """All that was printed and logged, and all that others could see of the processes."""
        return b"\n".join([*self.told, *(path.read_bytes() for path in self.outputs)])

    @contextmanager
    def seen_by_others(self) -> Iterator[None]:
        """Meanwhile, note again and again what the system tells of the processes and their children."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.005):
                for process in list(self.started):
                    self._look(process.pid)

        watching = threading.Thread(target=look)
        watching.start()
        try:
            yield
        finally:
            over.set()
            watching.join()

    def _look(self, pid: int) -> None:
        try:
            for name in ("cmdline", "environ", "comm"):
                if (found := Path(f"/proc/{pid}/{name}").read_bytes()) not in self.told:
                    self.told.append(found)
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                self._look(int(child))
        except OSError:  # it has ended
            pass


def secrets_of(machine: Watched) -> dict[str, bytes]:
    """What only this device, or only members, may know."""
    home = machine.own_home()
    device = load_device(home, create=False)
    with crdtlog.open(machine.file, home=home, create=False) as database:
        epochs = database.epochs()
    return {
        "signing key": device.sign.private_bytes_raw(),
        "receiving key": device.receive.private_bytes_raw(),
        **{f"secret of epoch {name.hex()}": secret for name, secret in epochs.items()},
    }


def live(laptop: Watched, phone: Watched) -> list[str]:
    """Two devices do all that devices do; the codes by which they were linked."""
    with laptop.seen_by_others(), phone.seen_by_others():
        laptop.finish(laptop.start("init", "notes.db", "--device", "laptop"))
        laptop.write(NOTES)
        laptop.finish(laptop.start("track", "notes.db", "notes", "--merge", "body=text"))
        codes = [_try_in_vain(laptop, phone)]
        laptop.start("up", "notes.db")
        eventually(lambda: "listening on" in laptop.said(), "the laptop is up")

        pairing, code = _paired(laptop)
        phone.finish(_joining(phone, laptop), code + "\n")
        assert pairing.wait(TIMEOUT_S) == 0
        assert code in laptop.outputs.pop().read_text()
        codes.append(code)

        phone.start("up", "notes.db", "--peer", laptop.address)
        eventually(lambda: "listening on" in phone.said(), "the phone is up")
        phone.write("UPDATE notes SET title = 'Oat milk', body = 'two litres' WHERE id = 'a'")
        laptop.write("UPDATE notes SET body = 'one litre, cold' WHERE id = 'a'")
        eventually(lambda: laptop.rows() == phone.rows() and "Oat milk" in str(laptop.rows()), "they agree")
        for command in COMMANDS:
            laptop.finish(laptop.start(*command))
            phone.finish(phone.start(*command, "--json"))
    return codes


def _paired(laptop: Watched) -> tuple["subprocess.Popen[str]", str]:
    """`pair` as it waits, and its code. What `pair` prints is for whoever asked for it, and is not searched."""
    pairing = laptop.start("pair", "notes.db", "--yes")
    assert pairing.stdout is not None
    code = pairing.stdout.readline().strip()
    assert CODE.fullmatch(code), laptop.said()
    return pairing, code


def _joining(phone: Watched, laptop: Watched) -> "subprocess.Popen[str]":
    words = ("join", "-", "notes.db", "--device", "phone", "--peer", laptop.address, "--json")
    return phone.start(*words, stdin=subprocess.PIPE)


def _try_in_vain(laptop: Watched, phone: Watched) -> str:
    """Pair without a daemon, and mistype the code; the code that it was."""
    pairing, code = _paired(laptop)
    last = "zoo" if code.endswith("-abandon") else "abandon"
    told = _joining(phone, laptop).communicate(f"{code.rpartition('-')[0]}-{last}\n", timeout=TIMEOUT_S)
    assert pairing.wait(TIMEOUT_S) == 1 and not told[0] and "code is wrong" in phone.said()
    assert code in laptop.outputs.pop().read_text()
    return code


class Lived(NamedTuple):
    """Two devices that have done all that devices do, and still run; and the codes by which they were linked."""

    laptop: Watched
    phone: Watched
    codes: list[str]

    def made(self) -> list[Path]:
        """All that the programs have made, directories too."""
        machines = (self.laptop, self.phone)
        ours = {path for each in machines for path in (each.files, *each.outputs)}
        return [path for each in machines for path in each.root.rglob("*") if path not in ours]


@pytest.fixture(
    scope="module",
    params=[(0o000, False), (0o077, True)],
    ids=["umask 0, usual home", "umask 77, moved home"],
)
def lived(request: pytest.FixtureRequest) -> Iterator[Lived]:
    umask, moved = request.param
    with TemporaryDirectory(prefix="crdtlog-", ignore_cleanup_errors=True) as name:
        laptop, phone = (Watched(each, Path(name) / each, umask, moved=moved) for each in ("laptop", "phone"))
        try:
            yield Lived(laptop, phone, live(laptop, phone))
        finally:
            laptop.stop()
            phone.stop()


@LINUX
def test_secrets_are_in_private_key_files_alone(lived: Lived) -> None:
    machines = (lived.laptop, lived.phone)
    contents = {path: path.read_bytes() for path in lived.made() if path.is_file()}
    told = lived.laptop.everything() + lived.phone.everything()
    assert all(part in told for part in (b"DEBUG asyncio", b"CRDTLOG_LISTEN=", b"crdtlog.textworker"))

    for machine in machines:
        for what, secret in secrets_of(machine).items():
            where = {path for path, content in contents.items() if holds(content, secret)}
            owners = [
                each for each in machines if any(each.own_home().keys in path.parents for path in where)
            ]
            assert owners == (list(machines) if "epoch" in what else [machine]), what
            assert all(any(each.own_home().keys in path.parents for each in owners) for path in where), where
            assert not holds(told, secret), what
    for shown in (lived.codes[0], *(code.partition("-")[2] for code in lived.codes)):
        assert not holds(told, shown.encode())
        assert [path for path, content in contents.items() if holds(content, shown.encode())] == []


@LINUX
def test_what_a_device_makes_is_for_its_user_alone(lived: Lived) -> None:
    made = lived.made()

    assert {path.name for path in made} >= {"device.json", "device.pem", "control.sock", "notes.db-wal"}
    assert [f"{path} {path.lstat().st_mode:o}" for path in made if path.lstat().st_mode & 0o077] == []


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
