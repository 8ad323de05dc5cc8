"""Reading schemas from real SQLite files, carrying them, building them again, and refusing hostile ones."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdtlog import errors, schema
from crdtlog.schema import Column, ForeignKey, Index, IndexColumn, Table

CHINOOK = Path(__file__).resolve().parents[3] / "shared" / "data" / "chinook.sqlite"


def database(*statements: str) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    return connection


def read(*statements: str, name: str = "t") -> Table:
    return schema.read_table(database(*statements), name)


def reason(*statements: str, name: str = "t") -> str:
    with pytest.raises(errors.Untrackable) as caught:
        read(*statements, name=name)
    return str(caught.value)


def through_the_wire(table: Table) -> Table:
    return schema.from_wire(msgpack.unpackb(msgpack.packb(schema.to_wire(table))))


def assert_survives(table: Table) -> None:
    """read -> wire -> msgpack -> from_wire -> validate -> create -> read gives the same description."""
    received = through_the_wire(table)
    assert received == table
    schema.validate(received)
    assert read(*schema.create_statements(received), name=table.name) == table
    assert schema.difference(table, received) is None


# --- what a description says --------------------------------------------------------------------------------------


def test_an_ordinary_table_is_described() -> None:
    table = read(
        "CREATE TABLE t (id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(16)))), n INTEGER NOT NULL DEFAULT -5, "
        "name VARCHAR ( 10 ) COLLATE nocase, at DEFAULT CURRENT_TIMESTAMP)",
        "CREATE INDEX by_name ON t (name DESC, lower(name)) WHERE n > 0",
    )
    assert table == Table(
        "t",
        (
            Column("id", "TEXT", default="lower(hex(randomblob(16)))", key=1),
            Column("n", "INTEGER", not_null=True, default="-5"),
            Column("name", "VARCHAR(10)", collation="NOCASE"),
            Column("at", default="CURRENT_TIMESTAMP"),
        ),
        indexes=(
            Index(
                "by_name",
                (IndexColumn("name", False, "NOCASE", True), IndexColumn("lower(name)", True)),
                "n > 0",
            ),
        ),
    )
    assert_survives(table)


SURVIVORS = {
    "rowid alias": "CREATE TABLE t (a INTEGER PRIMARY KEY, b)",
    "autoincrement": "CREATE TABLE t (a INTEGER PRIMARY KEY AUTOINCREMENT, b)",
    "autoincrement in the table": "CREATE TABLE t (a INTEGER, b, PRIMARY KEY (a AUTOINCREMENT))",
    "ascending": "CREATE TABLE t (a INTEGER CONSTRAINT k PRIMARY KEY ASC NOT NULL, b)",
    "no rowid alias": "CREATE TABLE t (a INTEGER PRIMARY KEY DESC, b)",
    "a rowid alias after all": "CREATE TABLE t (a INTEGER, b, PRIMARY KEY (a DESC))",
    "int is no alias": "CREATE TABLE t (a INT PRIMARY KEY, b)",
    "composite key": "CREATE TABLE t (a, b TEXT COLLATE NOCASE, c, PRIMARY KEY (c DESC, b COLLATE RTRIM, 'a'))",
    "without rowid": "CREATE TABLE t (a INTEGER PRIMARY KEY, b) WITHOUT ROWID",
    "without rowid, composite": "CREATE TABLE t (a, b, c, PRIMARY KEY (b COLLATE NOCASE, a)) WITHOUT ROWID",
    "without rowid, descending": "CREATE TABLE t (a INTEGER PRIMARY KEY DESC) WITHOUT ROWID",
    "without rowid, and descending": "CREATE TABLE t (a INTEGER, PRIMARY KEY (a DESC)) WITHOUT ROWID",
    "without rowid, forgetful": "CREATE TABLE t (a INTEGER, PRIMARY KEY (a COLLATE NOCASE)) WITHOUT ROWID",
    "strict": "CREATE TABLE t (a TEXT PRIMARY KEY, b ANY, c INT, d BLOB, e REAL NOT NULL) STRICT",
    "strict, without rowid": "CREATE TABLE t (a INTEGER PRIMARY KEY, b ANY) WITHOUT ROWID, STRICT",
    "generated": """CREATE TABLE t (
        a INT PRIMARY KEY, b INT GENERATED ALWAYS AS (a + 1) STORED, c AS (a || x'00'),
        d GENERATED ALWAYS AS (json_extract(a, '$.x')) VIRTUAL NOT NULL, e TEXT AS (CAST(a AS VARCHAR(10)))
    )""",
    "defaults": """CREATE TABLE t (
        a PRIMARY KEY, b DEFAULT abc, c DEFAULT "d e", d DEFAULT true, e DEFAULT NULL, f DEFAULT +1.5,
        g DEFAULT (1 -- one
        ), h DEFAULT x'00', i DEFAULT 'it''s', j DEFAULT (strftime('%s', 'now')), k DEFAULT [x],
        l DEFAULT ('a' || 'b') NOT NULL, m DEFAULT - 5, n DEFAULT current_date
    )""",
    "comments": """CREATE TABLE t ( -- the key )
        a /* , */ TEXT /**/ PRIMARY /* x */ KEY, -- more
        b INT /* ) */
    )""",
    "types": """CREATE TABLE t (
        a "VARCHAR(10)" PRIMARY KEY, b [my int], c DOUBLE /**/  PRECISION(10 , -2), d int, e 'TEXT'
    )""",
    "foreign keys": """CREATE TABLE t (
        a PRIMARY KEY, b REFERENCES p ON DELETE CASCADE ON UPDATE SET NULL,
        c REFERENCES "p q" (x) MATCH FULL NOT DEFERRABLE INITIALLY DEFERRED,
        d CONSTRAINT z REFERENCES p (y) DEFERRABLE INITIALLY DEFERRED,
        CONSTRAINT f FOREIGN KEY (B, c) REFERENCES t (a, b) ON DELETE RESTRICT DEFERRABLE
        CONSTRAINT g FOREIGN KEY (a) REFERENCES p ON DELETE SET DEFAULT ON UPDATE NO ACTION
    )""",
    "redundant": "CREATE TABLE t (a TEXT UNIQUE PRIMARY KEY NULL, b NOT NULL ON CONFLICT ABORT, UNIQUE (a))",
    "redundant, rowid": "CREATE TABLE t (a INTEGER PRIMARY KEY UNIQUE, b)",
    "odd names": """CREATE TABLE t (
        "" PRIMARY KEY, "select", "a""b", [c`d], `e]f`, "g
        h", "größe", été, 'i''j', ";--", "k.l"
    )""",
}


@pytest.mark.parametrize("sql", SURVIVORS.values(), ids=SURVIVORS.keys())
def test_a_table_survives_the_wire_and_the_rebuilding(sql: str) -> None:
    assert_survives(read(sql))


@pytest.mark.parametrize(
    "name", ['a "quoted" one', "[x]", "x]y", "select", "Ünïcode 表", "new\nline", "it's", "a;b--", "`", " "]
)
def test_tables_and_indexes_may_have_any_name(name: str) -> None:
    quoted = schema.quote(name)
    table = read(
        f"CREATE TABLE {quoted} ({quoted} TEXT PRIMARY KEY, b)",
        f"CREATE INDEX {schema.quote('i ' + name)} ON {quoted} ({quoted} DESC, {quoted} || 'x')",
        name=name,
    )
    assert table.name == table.columns[0].name == name
    assert_survives(table)


INDEXES = [
    "CREATE INDEX i ON t (a, b COLLATE NOCASE DESC, c)",
    "CREATE INDEX i ON t (\"b\", 'c', [a], (b))",
    "CREATE INDEX i ON t (lower(b) COLLATE rtrim DESC, b || ',' || c, CASE WHEN b IN (1, 2) THEN 1 END)",
    "CREATE INDEX i ON t (b) WHERE b IS NOT NULL AND c LIKE '%(x' -- why",
    "CREATE INDEX IF NOT EXISTS main.i ON t(b)",
    "CREATE INDEX i ON t (d, a)",
]


@pytest.mark.parametrize("sql", INDEXES)
def test_indexes_survive(sql: str) -> None:
    table = read("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT, c COLLATE NOCASE, d AS (b || c))", sql)
    assert len(table.indexes) == 1
    assert_survives(table)


def test_columns_added_and_renamed_later_are_read() -> None:
    table = read(
        "CREATE TABLE t (a TEXT PRIMARY KEY, b, FOREIGN KEY (b) REFERENCES p)",
        "ALTER TABLE t ADD COLUMN c INTEGER NOT NULL DEFAULT 5 COLLATE nocase",
        "ALTER TABLE t ADD d AS (c + 1) /* the last */",
        'ALTER TABLE t RENAME COLUMN b TO "b\'b"',
        'ALTER TABLE t RENAME TO "new t"',
        "ALTER TABLE \"new t\" ADD e DEFAULT 'x'",
        name="NEW T",
    )
    assert table.name == "new t"
    assert [column.name for column in table.columns] == ["a", "b'b", "c", "d", "e"]
    assert_survives(table)


def test_key_columns_come_in_the_order_of_the_key_and_stored_ones_without_generated_ones() -> None:
    table = read("CREATE TABLE t (a, b, c AS (a), d AS (b) STORED, PRIMARY KEY (b, a))")
    assert [column.name for column in table.key_columns] == ["b", "a"]
    assert [column.name for column in table.stored_columns] == ["a", "b"]


def test_the_rowid_alias_is_told_apart() -> None:
    alias = [key for key, sql in SURVIVORS.items() if read(sql).integer_key]
    assert alias == [
        *(
            "rowid alias",
            "autoincrement",
            "autoincrement in the table",
            "ascending",
            "a rowid alias after all",
        ),
        "redundant, rowid",
    ]


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "INT",
        "charint",
        "VARCHAR(5)",
        "clob",
        "MYBLOB",
        "REAL",
        "FLOATING",
        "double x",
        "DATE",
        "ANY",
        "JSON",
    ],
)
def test_affinity_is_what_sqlite_applies(kind: str) -> None:
    connection = database(
        f"CREATE TABLE t (k PRIMARY KEY, v {kind})",
        "INSERT INTO t VALUES (1, '1')",
        "INSERT INTO t VALUES (2, 1)",
    )
    table = schema.read_table(connection, "t")
    from_text, from_number = (row[0] for row in connection.execute("SELECT typeof(v) FROM t ORDER BY k"))
    expected = {
        "TEXT": ("text", "text"),
        "REAL": ("real", "real"),
        "BLOB": ("text", "integer"),
        "INTEGER": ("integer", "integer"),
        "NUMERIC": ("integer", "integer"),
    }
    assert expected[table.affinity(table.columns[1])] == (from_text, from_number)


def test_any_has_no_affinity_in_a_strict_table_only() -> None:
    sql = "CREATE TABLE t (k TEXT PRIMARY KEY, v ANY)"
    assert [table.affinity(table.columns[1]) for table in (read(sql), read(sql + "STRICT"))] == [
        "NUMERIC",
        "BLOB",
    ]


def test_two_hundred_columns_and_two_thousand() -> None:
    for count in (200, 1900):
        columns = ", ".join(f"c{number} INTEGER DEFAULT {number}" for number in range(1, count))
        table = read(f"CREATE TABLE t (id TEXT PRIMARY KEY, {columns})")
        assert len(table.columns) == count
        assert_survives(table)


def test_a_row_factory_does_not_disturb() -> None:
    connection = database("CREATE TABLE t (a PRIMARY KEY)")
    connection.row_factory = sqlite3.Row
    assert schema.read_table(connection, "t").name == "t"


def test_a_temporary_table_of_the_same_name_does_not_disturb() -> None:
    table = read("CREATE TABLE t (a PRIMARY KEY)", "CREATE TEMP TABLE t (b PRIMARY KEY, c)")
    assert [column.name for column in table.columns] == ["a"]


def test_the_rebuilt_table_behaves_like_the_first() -> None:
    first = read(
        "CREATE TABLE t (id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(4)))), n INT DEFAULT 7, "
        "m AS (n * 2), w DEFAULT word)"
    )
    connection = database(*schema.create_statements(first), "INSERT INTO t DEFAULT VALUES")
    ((key, n, m, w),) = connection.execute("SELECT id, n, m, w FROM t")
    assert (len(key), n, m, w) == (8, 7, 14, "word")


# --- real tables --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not CHINOOK.exists(), reason=f"the Chinook sample database is not at {CHINOOK}")
def test_every_table_of_chinook_is_trackable_and_survives() -> None:
    connection = sqlite3.connect(f"file:{CHINOOK}?mode=ro&immutable=1", uri=True)
    found = schema.trackable_tables(connection)
    assert len(found) == 11
    assert [why for _, why in found] == [None] * 11
    tables = [schema.read_table(connection, name) for name, _ in found]
    for table in tables:
        assert_survives(table)
    assert (
        sum(len(table.indexes) for table in tables) == sum(len(table.foreign_keys) for table in tables) == 11
    )
    assert [table.name for table in tables if not table.integer_key] == ["PlaylistTrack"]


# --- what cannot be tracked ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("CREATE TABLE t (a, b)", "no declared primary key"),
        ("CREATE TABLE t AS SELECT 1 AS a", "no declared primary key"),
        ("CREATE TABLE t (a PRIMARY KEY, b UNIQUE)", "UNIQUE beyond its primary key (b)"),
        ("CREATE TABLE t (a PRIMARY KEY, b, c, UNIQUE (b, c))", "UNIQUE beyond its primary key (b, c)"),
        (
            "CREATE TABLE t (a TEXT PRIMARY KEY, UNIQUE (a COLLATE NOCASE))",
            "UNIQUE beyond its primary key (a)",
        ),
        ("CREATE TABLE t (a PRIMARY KEY, b CHECK (b > 0))", "CHECK constraint"),
        ("CREATE TABLE t (a PRIMARY KEY, CONSTRAINT c CHECK (a > ')'))", "CHECK constraint"),
        ("CREATE TABLE t (a PRIMARY KEY ON CONFLICT REPLACE)", "ON CONFLICT REPLACE"),
        ("CREATE TABLE t (a, PRIMARY KEY (a) ON CONFLICT IGNORE)", "ON CONFLICT IGNORE"),
        ("CREATE TABLE t (a PRIMARY KEY, b NOT NULL ON CONFLICT REPLACE DEFAULT 1)", "ON CONFLICT REPLACE"),
        ("CREATE TABLE t (a, b, PRIMARY KEY (a, b, A))", "names a column twice"),
        ("CREATE VIEW t AS SELECT 1", "it is a view"),
        ("CREATE VIRTUAL TABLE t USING fts5 (a)", "it is a virtual table"),
        ("CREATE TABLE t (a PRIMARY KEY, b DEFAULT (sqlite_version()))", "calls sqlite_version()"),
        ("CREATE TABLE t (a PRIMARY KEY, b 'x y'(5))", None),
    ],
)
def test_the_reason_is_given_for_what_cannot_be_tracked(sql: str, expected: str | None) -> None:
    if expected is None:
        assert_survives(read(sql))
    else:
        assert expected in reason(sql)


def test_unique_indexes_are_a_reason_unless_they_cover_exactly_the_key() -> None:
    table = "CREATE TABLE t (a TEXT, b, PRIMARY KEY (a, b))"
    assert "UNIQUE beyond" in reason(table, "CREATE UNIQUE INDEX u ON t (b)")
    assert "UNIQUE beyond its primary key ((expression))" in reason(
        table, "CREATE UNIQUE INDEX u ON t (lower(b))"
    )
    assert "UNIQUE beyond" in reason(table, "CREATE UNIQUE INDEX u ON t (a, b) WHERE a > 1")
    assert read(table, "CREATE UNIQUE INDEX u ON t (b, a)").indexes == ()


def test_a_users_trigger_is_a_reason_but_not_one_of_crdtlogs() -> None:
    table = "CREATE TABLE t (a PRIMARY KEY)"
    assert read(table, "CREATE TRIGGER crdtlog__insert AFTER INSERT ON t BEGIN SELECT 1; END").name == "t"
    assert "the trigger 'mine'" in reason(table, "CREATE TRIGGER mine AFTER INSERT ON T BEGIN SELECT 1; END")


def test_crdtlogs_own_indexes_are_not_part_of_the_description() -> None:
    assert read("CREATE TABLE t (a PRIMARY KEY, b)", "CREATE INDEX crdtlog__b ON t (b)").indexes == ()


@pytest.mark.parametrize("name", ["sqlite_master", "SQLITE_sequence", "crdtlog__meta", "Crdtlog_conflicts"])
def test_internal_tables_are_refused(name: str) -> None:
    assert "belongs to" in reason(name=name)


def test_the_tables_inside_virtual_tables_are_refused() -> None:
    fts = "CREATE VIRTUAL TABLE f USING fts5 (a)"
    assert "virtual table keeps its content" in reason(fts, name="f_content")
    assert "virtual table keeps its content" in reason(
        "CREATE VIRTUAL TABLE r USING rtree (i, a, b)", name="r_node"
    )


@pytest.mark.parametrize("name", ["missing", "", "a\0b", "\ud800"])
def test_a_table_that_does_not_exist_is_said_to_be_missing(name: str) -> None:
    with pytest.raises(errors.NoSuchTable):
        read("CREATE TABLE t (a PRIMARY KEY)", name=name)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE t (a TEXT COLLATE french PRIMARY KEY)",
        "CREATE TABLE t (a TEXT, b, PRIMARY KEY (a COLLATE french))",
        "CREATE TABLE t (a TEXT PRIMARY KEY, b COLLATE french)",
    ],
)
def test_a_collation_that_others_lack_is_refused(sql: str) -> None:
    connection = database()
    connection.create_collation("french", lambda a, b: (a > b) - (a < b))
    connection.execute(sql)
    with pytest.raises(errors.Untrackable, match="FRENCH"):
        schema.read_table(connection, "t")


def test_a_function_that_others_lack_is_refused() -> None:
    connection = database()
    connection.create_function("mine", 1, str, deterministic=True)
    connection.execute("CREATE TABLE t (a PRIMARY KEY, b AS (mine(a)))")
    with pytest.raises(errors.Untrackable, match="mine"):
        schema.read_table(connection, "t")


def test_text_that_contradicts_sqlite_is_refused() -> None:
    connection = database("CREATE TABLE t (a PRIMARY KEY, b)", "PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_master SET sql = 'CREATE TABLE t (a PRIMARY KEY, c)' WHERE name = 't'")
    with pytest.raises(errors.Untrackable, match="differ about the columns"):
        schema.read_table(connection, "t")
    connection.execute(
        "UPDATE sqlite_master SET sql = 'CREATE TABLE t (a PRIMARY KEY, b ''' WHERE name = 't'"
    )
    with pytest.raises(errors.Untrackable, match="cannot be read"):
        schema.read_table(connection, "t")


def test_every_table_is_listed_with_the_reason_against_it() -> None:
    connection = database(
        "CREATE TABLE good (a INTEGER PRIMARY KEY AUTOINCREMENT)",
        "CREATE TABLE keyless (a)",
        "CREATE TABLE crdtlog__state (a)",
        "CREATE VIRTUAL TABLE search USING fts5 (a)",
        "CREATE VIEW v AS SELECT 1",
    )
    assert schema.trackable_tables(connection) == [
        ("good", None),
        ("keyless", "it has no declared primary key"),
        ("search", "it is a virtual table"),
    ]


# --- any table ----------------------------------------------------------------------------------------------------

names = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8
) | st.sampled_from(["select", 'a"b', "x]y", "`", "new\nline", "rowid", "é", "--", "check", "primary", "%s"])
types = st.sampled_from(
    ["", "TEXT", "INTEGER", "INT", "VARCHAR(10)", "double precision", "BLOB", "JSON", "NUMERIC(10,2)"]
)
strict_types = st.sampled_from(["TEXT", "INTEGER", "INT", "REAL", "BLOB", "ANY"])
collations = st.sampled_from(["BINARY", "NOCASE", "RTRIM"])
defaults = st.sampled_from(
    [
        None,
        "0",
        "-1",
        "'x'",
        "x'ab'",
        "NULL",
        "CURRENT_TIMESTAMP",
        "lower(hex(randomblob(16)))",
        "1 + 2",
        "TRUE",
    ]
)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    spelled = draw(st.lists(names, min_size=1, max_size=6, unique_by=str.lower))
    strict, without_rowid = draw(st.booleans()), draw(st.booleans())
    keys = draw(st.permutations(range(len(spelled))))[: draw(st.integers(1, len(spelled)))]
    columns = []
    for position, name in enumerate(spelled):
        key = keys.index(position) + 1 if position in keys else 0
        generated = draw(
            st.sampled_from([None, None, "lower('x')", f"coalesce({schema.quote(spelled[keys[0]])}, 1)"])
        )
        generated = None if key else generated
        collation = draw(collations)
        column = Column(
            name,
            draw(strict_types if strict else types),
            not_null=draw(st.booleans()) or bool(key and (without_rowid or strict)),
            default=None if generated else draw(defaults),
            key=key,
            collation=collation,
            generated=generated,
            stored=generated is not None and draw(st.booleans()),
            key_collation=draw(collations) if key else "BINARY",
            descending=bool(key) and draw(st.booleans()),
        )
        columns.append(column)
    table = Table(
        draw(names.filter(bool).filter(lambda name: not name.lower().startswith("sqlite_"))),
        tuple(columns),
        without_rowid,
        strict,
    )
    single = table.key_columns[0]
    if len(table.key_columns) == 1 and single.type == "INTEGER":
        # A rowid has no order of its own, and WITHOUT ROWID tables forget the COLLATE of such a key.
        plain = replace(single, key_collation=single.collation)
        if not without_rowid:
            plain = replace(single, key_collation="BINARY", descending=False, not_null=draw(st.booleans()))
            table = replace(table, autoincrement=draw(st.booleans()))
        columns = [plain if column is single else column for column in columns]
        table = replace(table, columns=tuple(columns))
    indexed = draw(st.lists(st.sampled_from(table.columns), max_size=3))
    parts = tuple(
        IndexColumn(column.name, False, draw(collations), draw(st.booleans())) for column in indexed
    )
    if parts and table.name.lower() != "i":
        where = draw(st.sampled_from([None, f"{schema.quote(parts[0].text)} IS NOT NULL"]))
        table = replace(table, indexes=(Index("i", parts, where),))
    columns_of_parent = draw(st.sampled_from([(), ("x",)]))
    actions = st.sampled_from(["NO ACTION", "RESTRICT", "SET NULL", "SET DEFAULT", "CASCADE"])
    foreign_key = ForeignKey(
        (spelled[0],), "p " + table.name, columns_of_parent, draw(actions), draw(actions), draw(st.booleans())
    )
    return replace(table, foreign_keys=(foreign_key,) if draw(st.booleans()) else ())


@settings(deadline=None)
@given(tables())
def test_any_table_survives_being_built_read_and_sent(table: Table) -> None:
    assert_survives(table)
