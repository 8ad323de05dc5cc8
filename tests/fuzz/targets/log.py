"""What is in a log: entries, their payloads, membership records, and the welcome that comes before them."""

from crdtlog import entry, membership, payload, rotation, schema, welcome
from crdtlog.errors import Malformed, SchemaRefused, TooLarge
from crdtlog.membership import (
    Add,
    Content,
    Founding,
    Genesis,
    Recover,
    Remove,
    Role,
    Rotate,
    Seen,
)
from crdtlog.payload import DELETE, INSERT, Patch, Payload, Section
from crdtlog.values import pack, unpack
from crdtlog.welcome import Welcome
from tests.fuzz.mutate import MSGPACK
from tests.fuzz.targets.schemas import tables
from tests.fuzz.targets.vectors import DATABASE, LAPTOP, PHONE, newcomer, vectors
from tests.fuzz.trial import Subject, Target, require

FIRST, LAST = 1_000, 2_000
GENESIS = membership.encode_genesis(Genesis(b"n" * 16, newcomer(LAPTOP, "admin"), None))


def signed_entries() -> list[bytes]:
    """Whole signed entries."""
    return [bytes.fromhex(vector["signed"]) for vector in vectors("entry")["entries"]]


def _split() -> Subject:
    return Subject(
        signed_entries(), entry.split, (Malformed, TooLarge), MSGPACK, write=lambda signed: signed.bytes()
    )


def _decode() -> Subject:
    bodies = [entry.split(signed).body for signed in signed_entries()]
    return Subject(bodies, entry.decode, (Malformed,), MSGPACK, write=entry.encode)


def _decompress() -> Subject:
    """Each case is an array of the size that a header declares and the packed payload."""

    def read(case: bytes) -> bytes:
        match unpack(case):
            case [int(size), bytes(packed)] if 0 <= size <= entry.MAX_RAW_BYTES:
                return entry.decompress(packed, size)
        raise Malformed("no size with a payload")

    def write(raw: bytes) -> bytes:
        return pack([len(raw), entry.compress(raw)])

    raws = [b"x", bytes(range(256)) * 8, b"\0" * 3_000_000]
    seeds = [*map(write, raws), pack([4, entry.compress(b"long")]), pack([1 << 20, entry.compress(b"short")])]
    # A frame of 60 MB in a few bytes, one without its size, one of a large window, two frames, one to be skipped, none.
    frames = [
        entry.compress(bytes(entry.MAX_RAW_BYTES)),
        b"\x28\xb5\x2f\xfd\x00\x58\x21\x00\x00abcd",
        b"\x28\xb5\x2f\xfd\x80\x88\x04\x00\x00\x00\x21\x00\x00abcd",
        entry.compress(b"one") * 2,
        b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + entry.compress(b"one"),
        entry.compress(b""),
    ]
    seeds += [pack([size, frame]) for frame in frames for size in (0, 3, 4)]
    skipped = pack([0, b"\x50\x2a\x4d\x18\x04\x00\x81\x80\x80\x80"])  # 2 GB are to be skipped
    return Subject(seeds, read, (Malformed,), MSGPACK, write=write, known=[skipped])


def _data() -> Subject:
    def written(data: Payload) -> bytes:
        return payload.encode_data(data.sections, FIRST)

    def holds(data: Payload) -> None:
        for section in data.sections:
            for row in range(section.rows):
                section.key(row)
                section.values(row)
            section.picked(range(0, section.rows, 2))

    rows = Section(
        b"table id",
        INSERT,
        (1, 2, 3),
        [["a", "b", "c"], [1, 2, 3]],
        [[None, "ä\udc80", b"blob"], [1.5, -(1 << 63), -0.0], ["", 7, 1]],
        [1_000, 1_500, 2_000],
        births=[None, (b"w" * 24, 7), (b"v" * 24, 1)],
        unseen=(0, 2),
    )
    gone = Section(b"table id", DELETE, (), [[1, "k"]], [], [1_000, 1_000])
    merging = Section(
        b"other id",
        INSERT,
        (1, 2),
        [["k", "l"]],
        [[None, 5], [6, None]],
        [1_000, 1_001],
        patches={1: [Patch(2, b"w" * 24, 5, b"json"), None], 2: [None, Patch(3, b"v" * 24, 6, b"step")]},
        counters=(2,),
    )
    seeds = [payload.encode_data(some, FIRST) for some in ([rows], [gone, merging], [rows, gone, merging])]
    seeds += [bytes.fromhex(vector["raw"]) for vector in vectors("merging")["payloads"]]
    seeds += [
        bytes.fromhex(vector["raw"]) for vector in vectors("entry")["entries"] if vector["kind"] == "data"
    ]
    return Subject(
        seeds,
        lambda raw: payload.decode_data(raw, FIRST, LAST),
        (Malformed,),
        MSGPACK,
        write=written,
        alike=lambda one, two: written(one) == written(two),  # births of which all are None may be left out
        holds=holds,
    )


def _genesis() -> Subject:
    seeds = [
        GENESIS,
        membership.encode_genesis(Genesis(b"m" * 16, newcomer(PHONE, "reader"), b"r" * 32)),
    ]
    return Subject(seeds, membership.decode_genesis, (Malformed,), MSGPACK, write=membership.encode_genesis)


def _record() -> Subject:
    return Subject(
        [membership.encode_content(content) for content in records()],
        membership.decode_content,
        (Malformed,),
        MSGPACK,
        words=[
            b"add",
            b"readmit",
            b"genesis",
            b"admin",
            b"writer",
            b"reader",
            b"role",
            b"remove",
            b"rotate",
            b" without history",
        ],
        write=membership.encode_content,
    )


def _rotation() -> Subject:
    """A rotation by whoever may write, read by a device that it is wrapped for."""
    held = {rotation.epoch_id(secret): secret for secret in (b"s" * 32, b"t" * 32)}
    keys = {device.id: device.public.receive_key for device in (LAPTOP, PHONE)}
    made = [
        rotation.rotate(DATABASE, held, keys)[0],
        rotation.rotate(DATABASE, held, keys, unsealed=list(held))[0],
    ]

    def read(raw: bytes) -> dict[bytes, bytes]:
        content = membership.decode_content(raw)
        if not isinstance(content, Rotate):
            raise Malformed("another record")
        return rotation.secrets_from(DATABASE, PHONE, [content], {})

    def holds(found: dict[bytes, bytes]) -> None:
        fits = all(rotation.epoch_id(secret) == epoch for epoch, secret in found.items())
        require(fits, "an epoch's secret is the one that its id is the hash of")

    seeds = [membership.encode_content(record) for record in made]
    return Subject(seeds, read, (Malformed,), MSGPACK, holds=holds)


def records() -> list[Content]:
    """A membership record of each kind."""
    keys = {device.id: device.public.receive_key for device in (LAPTOP, PHONE)}
    return [
        Founding(GENESIS),
        Add(newcomer(PHONE, "writer")),
        Add(newcomer(PHONE, "reader"), again=True),
        Add(newcomer(PHONE, "writer"), history=False),
        Add(newcomer(PHONE, "reader"), again=True, history=False),
        Role(PHONE.id, "reader"),
        Remove(PHONE.id),
        Seen(),
        rotation.rotate(DATABASE, {rotation.epoch_id(b"s" * 32): b"s" * 32}, keys)[0],
        Recover(newcomer(PHONE, "admin"), b"s" * 64),
    ]


def _welcome() -> Subject:
    descriptions = [(bytes([number] * 8), table) for number, table in enumerate(tables())]
    epochs = {b"e" * 16: b"s" * 32, b"f" * 16: b"t" * 32}
    members = [newcomer(LAPTOP, "admin"), newcomer(PHONE, "writer")]
    seeds = [
        welcome.encode(Welcome(GENESIS, b"e" * 16, b"f" * 16, epochs, members, descriptions)),
        welcome.encode(Welcome(GENESIS, b"e" * 16, b"e" * 16, {b"e" * 16: b"s" * 32}, members[:1], [])),
        welcome.encode(
            Welcome(
                GENESIS, b"e" * 16, b"f" * 16, epochs, members, descriptions, history=False, meeting=b"k" * 32
            )
        ),
    ]
    parts = unpack(seeds[0])
    return Subject(
        seeds,
        welcome.decode,
        (Malformed, SchemaRefused),
        MSGPACK,
        write=welcome.encode,
        holds=lambda read: require(read.epoch in read.epochs, "the current epoch is one of those given"),
        known=[pack([*parts[:3], epoch, *parts[4:]]) for epoch in ([], [[]], None)],
    )


def _schema_entry() -> Subject:
    """The description in a schema entry's payload, as `apply_schema` takes it out."""

    def read(raw: bytes) -> schema.Table:
        match unpack(raw):
            case ["track", bytes(), wire, []]:
                return schema.from_wire(wire)
        raise Malformed("no such entry")

    seeds = [pack(["track", b"table id", schema.to_wire(table), []]) for table in tables()]
    return Subject(
        seeds,
        read,
        (Malformed,),
        MSGPACK,
        write=lambda table: pack(["track", b"table id", schema.to_wire(table), []]),
    )


TARGETS = [
    Target("entry.split", 20_000, _split),
    Target("entry.decode", 20_000, _decode),
    Target("entry.decompress", 5_000, _decompress),
    Target("payload.decode_data", 10_000, _data),
    Target("membership.genesis", 20_000, _genesis),
    Target("membership.record", 20_000, _record),
    Target("membership.rotation", 3_000, _rotation),
    Target("welcome.decode", 4_000, _welcome),
    Target("schema.from_wire", 4_000, _schema_entry),
]
