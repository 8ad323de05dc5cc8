"""A relay as a person names it: its URL, and the operator's token behind it if one is needed.

Knows the form `wss://HOST[:PORT][/PATH][#sha256=HEX][&token=TOKEN]`. Must not know connections. The one idea: all that
a device needs to use a relay is one text, which can be given on, and `shown` is the part of it that is no secret.
"""

from typing import NamedTuple

from crdtlog.errors import Usage
from peers.relay.client import RelayUrl
from peers.relay.messages import MAX_TOKEN_CHARACTERS

MAX_CHARACTERS = 2_000
MAX_RELAYS = 16
"""So many relays one file uses."""


class RelayAddress(NamedTuple):
    """A relay: the text that names it, where it is, and the token that its operator asks for."""

    text: str
    url: RelayUrl
    token: str | None

    @property
    def shown(self) -> str:
        """The relay without what is secret or long."""
        return self.url.base

    @classmethod
    def parse(cls, text: str, *, insecure: bool = False) -> "RelayAddress":
        """Read a relay's URL; see `RelayUrl.parse` for `insecure`. Raises `Usage`."""
        if len(text) > MAX_CHARACTERS or not text.isprintable():
            raise Usage("this is not the URL of a relay")
        base, _, fragment = text.partition("#")
        parts = fragment.split("&") if fragment else []
        tokens = [part.removeprefix("token=") for part in parts if part.startswith("token=")]
        rest = [part for part in parts if not part.startswith("token=")]
        if len(tokens) > 1 or any(not 0 < len(token) <= MAX_TOKEN_CHARACTERS for token in tokens):
            raise Usage("a relay's URL has one token at most, as #token=…")
        url = RelayUrl.parse(base + ("#" + "&".join(rest) if rest else ""), insecure=insecure)
        return cls(text, url, tokens[0] if tokens else None)
