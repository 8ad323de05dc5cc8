"""Programs that hold cells open, plain SQL beside them, random exchanges: all devices and all objects show the same."""

import json
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pycrdt import Array, Map

from crdtlog.database import Database
from tests.crdtlog.devices import World, assert_converged, devices, quick_directory, rows_of, sync, sync_all

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, meta TEXT, tags TEXT, body TEXT)"
META = '{"keep":[],"free":{"a":[1,[2,{"b":3}]],"c":{}},"big":[123456789012345678901,0.10]}'
ROW = f"""INSERT INTO t VALUES ('a', '{META}', '["old", [1, 2.50]]', '.')"""


class Program:
    """A program on a device, with everything open, that edits at random and remembers what must stay."""

    def __init__(self, db: Database, name: str, choose: random.Random) -> None:
        self.db, self.name, self.choose = db, name, choose
        self.meta: Any = db.json("t", "a", "meta")
        self.tags: Any = db.set("t", "a", "tags")
        self.body: Any = db.text("t", "a", "body")
        self.count = 0
        self.added: list[str] = []

    def token(self) -> str:
        """A text that nobody else writes."""
        self.count += 1
        return f"<{self.name}{self.count}é>"

    def keep(self) -> str:
        """One that nobody takes away."""
        self.added.append(self.token())
        return self.added[-1]

    def act(self) -> None:
        getattr(
            self,
            self.choose.choice(["edit", "edit", "edit", "grow", "tag", "type", "sql", "refresh", "many"]),
        )()

    def edit(self) -> None:
        """Anything, anywhere in the free part of the document."""
        choose, at = self.choose, self.meta["free"]
        while (
            within := [each for each in children(at) if isinstance(each, (Map, Array))]
        ) and choose.random() < 0.7:
            at = choose.choice(within)
        value = choose.choice(
            [self.token, lambda: 7, lambda: Map({"n": Array([1])}), lambda: [{"x": None}], Array]
        )()
        if isinstance(at, Map):
            key = choose.choice("abcdé")
            if key in at and choose.random() < 0.4:
                del at[key]
            else:
                at[key] = value
        elif len(at) and choose.random() < 0.3:
            start = choose.randrange(len(at))
            del at[start : choose.randint(start + 1, len(at))]
        elif len(at) and choose.random() < 0.3:
            at[choose.randrange(len(at))] = value
        else:
            at.insert(choose.randint(0, len(at)), value)

    def grow(self) -> None:
        keep = self.meta["keep"]
        keep.insert(self.choose.randint(0, len(keep)), self.keep())

    def tag(self) -> None:
        self.tags.append(self.keep())
        if "old" in (tags := self.tags.to_py()) and self.choose.random() < 0.3:
            del self.tags[tags.index("old")]

    def type(self) -> None:
        ends = [at for at, letter in enumerate(str(self.body) + ".") if letter in "<."]
        self.body.insert(len(str(self.body)[: self.choose.choice(ends)].encode()), self.keep())

    def many(self) -> None:
        with self.meta.doc.transaction():
            for _ in range(self.choose.randint(1, 5)):
                self.edit()
            self.grow()

    def sql(self) -> None:
        keep, free = self.keep(), self.token()
        self.db.execute(
            "UPDATE t SET meta = json_set(json_insert(meta, '$.keep[#]', ?1), ?2, ?3), "
            "tags = json_insert(tags, '$[#]', ?1), body = body || ?1",
            (keep, f"$.free.{self.choose.choice('abcd')}", free),
        )

    def refresh(self) -> None:
        self.db.refresh()

    def shows(self) -> tuple[Any, Any, str]:
        return self.meta.to_py(), self.tags.to_py(), str(self.body)


def children(shared: Any) -> list[Any]:
    return list(shared.values()) if isinstance(shared, Map) else list(shared)


@settings(max_examples=15)
@given(st.integers(0, 1 << 32))
def test_all_end_the_same_and_nothing_is_lost(seed: int) -> None:
    choose = random.Random(seed)
    with quick_directory() as directory, World(directory) as world:
        dbs = devices(world, ["ant", "bee"], [TABLE], ROW)
        dbs[0].track("t", {"meta": "json", "tags": "set", "body": "text"})
        sync_all(dbs)
        programs = [Program(db, name, choose) for db, name in zip([*dbs, dbs[0]], "xyz", strict=True)]
        for _ in range(40):
            if choose.random() < 0.15:
                sync(*choose.sample(dbs, 2))
            choose.choice(programs).act()
        for db in dbs:
            db.drain_all()
        sync_all(dbs)
        for db in dbs:
            db.refresh()
        assert_converged(dbs, ["t"])
        assert programs[0].shows() == programs[1].shows() == programs[2].shows()

        ((meta, tags, body),) = rows_of(dbs[0], "SELECT meta, tags, body FROM t")
        shown = json.loads(meta)
        assert shown["free"] == programs[0].meta["free"].to_py()
        assert (json.loads(tags), body) == programs[0].shows()[1:]
        assert '"big":[123456789012345678901,0.10]' in meta
        assert "[1,2.50]" in tags
        for token in [token for program in programs for token in program.added]:
            assert sum(token in each for each in (shown["keep"], json.loads(tags), body)) in (1, 3)
        assert len(shown["keep"]) == len(set(shown["keep"]))


@settings(max_examples=15)
@given(st.integers(0, 1 << 32))
def test_what_a_program_holds_is_in_the_file_after_each_of_its_edits(seed: int) -> None:
    choose = random.Random(seed)
    with quick_directory() as directory, World(directory) as world:
        (db,) = devices(world, ["ant"], [TABLE], ROW)
        db.track("t", {"meta": "json", "tags": "set", "body": "text"})
        program = Program(db, "x", choose)
        for _ in range(40):
            choose.choice([program.edit, program.many, program.type, program.tag])()
            meta, tags, body = program.shows()
            ((shown, listed, text),) = rows_of(db, "SELECT meta, tags, body FROM t")
            assert json.loads(shown)["free"] == meta["free"]
            assert json.loads(shown)["keep"] == meta["keep"]
            assert '"big":[123456789012345678901,0.10]' in shown.replace(" ", "")
            assert len(tags) == len(json.loads(listed))
            assert all(tag in tags for tag in json.loads(listed))
            assert text == body
