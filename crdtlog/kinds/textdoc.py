"""A text that merges character by character: one `pycrdt.Doc` with one `Text` in it.

Runs only inside the text worker (see crdtlog/textworker): bytes of another device reach pycrdt nowhere else. A text's
*base* is either its state, the document as Yjs update bytes, or the plain text that it began with, from which every
device makes the same document. `edit` makes a patch by comparing what is with what shall be. `merge` trusts no patch:
each is read first (see yjs.py), then applied to a scratch copy, and the copy must survive being encoded, decoded and
read back.

Deleted text leaves the state (the library collects it); what stays is a few bytes for each run of characters that one
client deleted.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import NamedTuple

from pycrdt import Doc, Text

from crdtlog.errors import Malformed, TooLarge
from crdtlog.kinds import textdiff, yjs
from crdtlog.kinds.text import MAX_MERGED_BYTES, MAX_TEXT_BYTES, Dot, TextBase, TextFailure

#: Places in the document that the splices of one edit may pass, all together; each costs the library ten nanoseconds.
MAX_PASSED = 6_000_000
#: Bytes of text that they may move: splitting a long run of text copies what is behind.
MAX_MOVED = 4 << 30
#: About what each run of characters adds to a state, beside the characters.
BLOCK_BYTES = 16
#: Documents kept decoded, and how long their states may be all together.
KEPT_DOCUMENTS = 64
KEPT_BYTES = 8 << 20

_NOBODY = 1


class Unreadable(Exception):
    """A base that the library cannot read: no patch's fault."""


class Document(NamedTuple):
    """A decoded text, and the client that may edit it."""

    doc: Doc[Text]
    text: Text
    client: int


class Texts:
    """Works on texts, and keeps the last ones decoded so that a run of edits of one text need not decode each time."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Document] = OrderedDict()
        self._kept_bytes = 0

    def open(self, begun: Dot, base: TextBase) -> tuple[bytes, str]:
        """The state and the text of a base."""
        document = self._decoded(begun, base)
        return self._keep(document), str(document.text)

    def edit(
        self,
        begun: Dot,
        base: TextBase,
        writer: bytes,
        value: str,
        splices: Sequence[textdiff.Splice] | None = None,
    ) -> tuple[bytes, bytes]:
        """The patch that makes a document show `value`, empty if it does already, and the state with it.

        By these splices, unless they are None or too many. Raises `TooLarge` or `Malformed` where no patch can say it.
        """
        if len(value.encode()) > MAX_TEXT_BYTES:
            raise TooLarge("a text too long to be merged")
        client = yjs.edit_client(begun, writer)
        document = self._decoded(begun, base, client)
        shown = str(document.text)
        if shown == value:
            return b"", self._keep(document, base if isinstance(base, bytes) else None)
        size = len(shown.encode())
        blocks = max(0, len(base) - size) // BLOCK_BYTES if isinstance(base, bytes) else 0
        most = _most_splices(max(size, len(value)), blocks)
        if splices is None or len(splices) > most:
            splices = textdiff.splices(shown, value, most=most)
        patch = _apply(document, shown, splices)
        state = document.doc.get_update()
        again = _copy(state, client)
        if str(again.text) != value:
            raise Unreadable("a document that does not keep what is written to it")
        yjs.read_patch(patch, client)  # what others would refuse must not be written
        return patch, self._keep(again, state)

    def merge(
        self, begun: Dot, base: TextBase, patches: Sequence[tuple[bytes, bytes]]
    ) -> tuple[bytes | None, bytes | None, dict[int, TextFailure]]:
        """Merge patches, each with its writer: state, text as UTF-8, and which were refused and why.

        Which are refused depends on the set of patches alone (see `_accepted`), and on their order only for one writer.
        Raises `Malformed` when the patches, though each is well formed, make something that does not hold together.
        """
        document = self._decoded(begun, base)
        with document.doc.transaction():
            clocks = yjs.read_clocks(document.doc.get_state())
            accepted, refused = _accepted(clocks, begun, patches)
            for place in accepted:
                document.doc.apply_update(patches[place][1])
        if not accepted:
            return None, None, refused
        # What is deleted leaves the document when a transaction ends.
        with document.doc.transaction():
            state, shown = document.doc.get_update(), str(document.text).encode()
        del document  # a large text is in memory often enough
        self._prove(state, shown, clocks)
        return state, shown, refused

    # --- decoded documents --------------------------------------------------------------------------------------------

    def _decoded(self, begun: Dot, base: TextBase, client: int = _NOBODY) -> Document:
        """A document for the caller alone; `client` will edit it, unless it is nobody."""
        state = begun_with(base, begun) if isinstance(base, str) else base
        kept = self._kept.pop(state, None)
        if kept is not None:
            self._kept_bytes -= len(state)
            if client in (_NOBODY, kept.client):
                return kept
        try:
            return _copy(state, client)
        except Exception as error:
            raise Unreadable(f"a state that cannot be read: {error}") from None

    def _keep(self, document: Document, state: bytes | None = None) -> bytes:
        """Keep a document for the next one who asks; returns its state."""
        state = document.doc.get_update() if state is None else state
        if state not in self._kept and len(state) <= KEPT_BYTES:
            self._kept[state] = document
            self._kept_bytes += len(state)
            while self._kept_bytes > KEPT_BYTES or len(self._kept) > KEPT_DOCUMENTS:
                gone, _ = self._kept.popitem(last=False)
                self._kept_bytes -= len(gone)
        return state

    def _prove(self, state: bytes, shown: bytes, clocks: dict[int, int]) -> None:
        """Require that a state, decoded and read back, is the text that the scratch copy showed."""
        if len(shown) > MAX_MERGED_BYTES:
            raise TooLarge("a text that its patches make too long")
        again = _copy(state, _NOBODY)
        with again.doc.transaction():
            chunks, roots = again.text.diff(), list(again.doc.keys())
            clocks_again = yjs.read_clocks(again.doc.get_state())
        if any(type(chunk) is not str or attributes for chunk, attributes in chunks):
            raise Malformed("a text with something else than characters in it")
        if b"".join([chunk.encode() for chunk, _ in chunks]) != shown or roots != [yjs.ROOT]:
            raise Malformed("a text that reads otherwise once it was stored")
        if clocks_again != clocks:
            raise Malformed("a text that lacks what its patches said")
        self._keep(again, state)


def begun_with(value: str, begun: Dot) -> bytes:
    """The state of a text as it begins: one item, the same bytes on every device."""
    if not value:
        return b"\0\0"
    doc: Doc[Text] = Doc(client_id=yjs.start_client(begun))
    # At once: in pieces, each would copy those before it.
    doc.get(yjs.ROOT, type=Text).insert(0, value)
    return doc.get_update()


def _copy(state: bytes, client: int) -> Document:
    doc: Doc[Text] = Doc(client_id=client)
    with doc.transaction():
        doc.apply_update(state)
        return Document(doc, doc.get(yjs.ROOT, type=Text), client)


def _accepted(
    clocks: dict[int, int], begun: Dot, patches: Sequence[tuple[bytes, bytes]]
) -> tuple[list[int], dict[int, TextFailure]]:
    """The places of patches that can be applied, in an order that can, and why the others cannot; moves the clocks on.

    Each writer's patches count up to the first that cannot be merged. So more patches by others never make one count
    less, and whatever order they come in, all devices with the same patches leave out the same.
    """
    queues: dict[int, deque[tuple[int, yjs.Patch | TextFailure]]] = {}
    for place, (writer, data) in enumerate(patches):
        client = yjs.edit_client(begun, writer)
        queues.setdefault(client, deque()).append((place, _read(data, client)))
    accepted = []
    why: dict[int, TextFailure] = {}
    waiting: dict[int, list[int]] = {}
    ready = deque(queues)
    while ready:
        client = ready.popleft()
        queue = queues[client]
        while queue:
            place, patch = queue[0]
            found = patch if isinstance(patch, TextFailure) else _obstacle(patch, clocks)
            if isinstance(found, TextFailure):
                why[client] = found
                for other, end in patch.named.items() if isinstance(patch, yjs.Patch) else ():
                    if end > clocks.get(other, 0):
                        waiting.setdefault(other, []).append(client)
                        break
                break
            queue.popleft()
            accepted.append(place)
            if found.length:
                clocks[client] = found.clock + found.length
            ready += waiting.pop(client, ())
    refused = {}
    for client, queue in queues.items():
        for at, (place, _) in enumerate(queue):
            refused[place] = why[client] if not at else _BEHIND
    return accepted, refused


_BEHIND = TextFailure("missing", "a patch behind one of its author's that is left out")


def _read(data: bytes, client: int) -> yjs.Patch | TextFailure:
    try:
        return yjs.read_patch(data, client)
    except Malformed as error:
        return TextFailure("malformed", str(error))


def _obstacle(patch: yjs.Patch, clocks: dict[int, int]) -> yjs.Patch | TextFailure:
    """The patch, if it follows on what is there."""
    match yjs.check_present(patch, clocks):
        case "":
            return patch
        case "missing":
            return TextFailure("missing", "a patch that builds on characters that are not there")
        case _:
            return TextFailure("malformed", "a patch whose items are there already")


def _most_splices(size: int, blocks: int) -> int:
    """How many splices an edit may make so that neither making nor applying it takes long.

    Each splice walks the document from its beginning, and copies what is behind it in a long run of text.
    """
    for most in (1_000, 500, 200, 100, 50):
        if most * (blocks + 2 * most) <= MAX_PASSED and most * size <= MAX_MOVED:
            return most
    return 20


def _apply(document: Document, shown: str, found: Sequence[textdiff.Splice]) -> bytes:
    """Make splices in one transaction; returns it as a patch.

    The library counts positions in UTF-8 bytes. What is inserted goes behind what it replaces: then the deleted runs of
    a text that is rewritten again and again are neighbours, and become one.
    """
    updates: list[bytes] = []
    subscription = document.doc.observe(lambda event: updates.append(event.update))
    with document.doc.transaction():
        at = done = 0
        for position, deleted, inserted in found:
            at += len(shown[done:position].encode())
            done = position + deleted
            gone = len(shown[position:done].encode())
            if inserted:
                document.text.insert(at + gone, inserted)
            if gone:
                del document.text[at : at + gone]
            at += len(inserted.encode())
    document.doc.unobserve(subscription)
    (patch,) = updates
    return patch
