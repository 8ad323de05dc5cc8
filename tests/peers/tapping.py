"""Somebody on the network: forwards connections and keeps every byte, and listens to multicast DNS."""

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self

from peers.node.discovery import own_hosts

MDNS = "224.0.0.251"
MDNS_PORT = 5353


@dataclass
class Tapped:
    """One connection: what went to the listener, and what came back."""

    there: bytearray = field(default_factory=bytearray)
    back: bytearray = field(default_factory=bytearray)


class Record(NamedTuple):
    """One TLS record: its type (20 change of cipher, 21 alert, 22 handshake, 23 encrypted) and what is in it."""

    kind: int
    body: bytes


class Tap:
    """Forwards what comes to `address` to another, and keeps it; a context manager."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.connections: list[Tapped] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(self._target)
                tapped = Tapped()
                self.connections.append(tapped)
                for source, sink, kept in ((near, far, tapped.there), (far, near, tapped.back)):
                    threading.Thread(target=_carry, args=(source, sink, kept), daemon=True).start()

    def heard(self) -> bytes:
        """Everything, both ways."""
        return b"".join(bytes(each.there) + b"\0" * 64 + bytes(each.back) for each in self.connections)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listening.close()


def _carry(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            kept += data
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def records(stream: bytes) -> list[Record]:
    """The TLS records of one direction."""
    found, at = [], 0
    while at + 5 <= len(stream):
        kind, _, length = struct.unpack_from(">BHH", stream, at)
        found.append(Record(kind, stream[at + 5 : at + 5 + length]))
        at += 5 + length
    return found


class Multicast:
    """Keeps every multicast DNS packet that this machine sends or hears; a context manager."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            self._socket.setsockopt(socket.SOL_SOCKET, option, 1)
        self._socket.bind(("", MDNS_PORT))
        for host in {"127.0.0.1", *(host for host in own_hosts() if ":" not in host)}:
            with contextlib.suppress(OSError):
                member = socket.inet_aton(MDNS) + socket.inet_aton(host)
                self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                self.packets.append(self._socket.recv(1 << 16))

    def heard(self) -> bytes:
        """All packets."""
        return b"\0".join(self.packets)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()
