"""How reasons become lines for people: sentences with one full stop each, told from this device's side.

Knows English and no more. The one idea: a reason is written once, for both devices ("The other device sent ..."), and
turned here to whoever reads it.
"""

_OTHER = "The other device "


def sentences(*parts: object) -> str:
    """The texts one after the other, each ended by exactly one full stop; empty ones are left out."""
    texts = (str(part).strip() for part in parts)
    return " ".join(text if text.endswith((".", "!", "?")) else f"{text}." for text in texts if text)


def told(reason: str, hint: str = "", *, by_peer: bool) -> str:
    """Why a link ended, to follow the other device's name and a colon."""
    if reason.startswith(_OTHER):
        reason = ("this device " if by_peer else "it ") + reason.removeprefix(_OTHER)
    return sentences(reason, hint)


def unacceptable(error: Exception, hint: str) -> str:
    """The reason for ending a link whose other device sent what this one must not take."""
    return sentences(
        f"{_OTHER}sent something that cannot be accepted ({str(error).strip().rstrip('.')})", hint
    )
