"""How SQL is split into tokens, and which expressions may travel."""

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog import errors
from crdtlog.schema.sqltext import (
    Kind,
    Place,
    Refusal,
    check_expression,
    fold,
    normal,
    normal_type,
    quote,
    tokenize,
)


def kinds(sql: str) -> list[tuple[Kind, str]]:
    return [(token.kind, token.text) for token in tokenize(sql)]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ('"b""c"', [(Kind.QUOTED, '"b""c"')]),
        ("[d e]", [(Kind.QUOTED, "[d e]")]),
        ("`e``f`", [(Kind.QUOTED, "`e``f`")]),
        ("'g''h'", [(Kind.STRING, "'g''h'")]),
        ("x'0A'", [(Kind.BLOB, "x'0A'")]),
        ("1.5e-3", [(Kind.NUMBER, "1.5e-3")]),
        ("0xFF", [(Kind.NUMBER, "0xFF")]),
        (".5", [(Kind.NUMBER, ".5")]),
        ("?1 :n", [(Kind.VARIABLE, "?1"), (Kind.VARIABLE, ":n")]),
        ("a->>b", [(Kind.WORD, "a"), (Kind.OPERATOR, "->>"), (Kind.WORD, "b")]),
        ("été$1", [(Kind.WORD, "été$1")]),
        ("a--x\n+/* y */b--z", [(Kind.WORD, "a"), (Kind.OPERATOR, "+"), (Kind.WORD, "b")]),
    ],
)
def test_tokens_are_split_as_sqlite_splits_them(sql: str, expected: list[tuple[Kind, str]]) -> None:
    assert kinds(sql) == expected


@pytest.mark.parametrize(
    "sql", ["'open", '"open', "[open", "`open", "x'0'", "1e", "12ab", "\ufeffa", "a\0", "\x0b", "!", "\ud800"]
)
def test_what_is_no_token_is_refused(sql: str) -> None:
    with pytest.raises(Refusal):
        tokenize(sql)


def test_names_lose_their_quotes() -> None:
    assert [token.name for token in tokenize("""a "b""c" [d"e] `f``g` 'h''i'""")] == [
        "a",
        'b"c',
        'd"e',
        "f`g",
        "h'i",
    ]


def test_comments_and_spaces_become_one_space() -> None:
    assert normal("  a /* x */ -- y\n || \t'  b  '") == "a || '  b  '"


@given(st.text(alphabet="ab'\"[]`(),;.->|=<!+*/%&~ \n\t01xeXE_$?:@#é\ufeff", max_size=30))
def test_normal_form_is_stable_whatever_the_text(text: str) -> None:
    try:
        once = normal(text)
    except Refusal:
        return
    assert normal(once) == once
    assert [token.text for token in tokenize(once)] == [token.text for token in tokenize(text)]


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_quoted_name_is_one_token_that_means_the_name_and_sqlite_agrees(name: str) -> None:
    quoted = quote(name)
    assert [token.name for token in tokenize(quoted)] == [name]
    cursor = sqlite3.connect(":memory:").execute(f"SELECT 1 AS {quoted}")
    assert cursor.description[0][0] == name


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_name_that_sql_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(errors.Malformed):
        quote(name)


def test_names_fold_only_in_ascii() -> None:
    assert fold("ÄBc") == "Äbc"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("int", "INT"),
        (" double\n precision ( 10 , -2 )", "double precision(10,-2)"),
        ("", ""),
        ("VarChar (5)", "VarChar(5)"),
    ],
)
def test_types_have_a_normal_form(text: str, expected: str) -> None:
    assert normal_type(text) == expected


@pytest.mark.parametrize(
    "text", ["TEXT(1) x", "TEXT CHECK (1)", "TEXT, x", "a(b)", "a(1,2,3)", '"quoted"', "TEXT; x"]
)
def test_what_is_more_than_a_type_is_refused(text: str) -> None:
    with pytest.raises(Refusal):
        normal_type(text)


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-1.5",
        "NULL",
        "'it''s'",
        "x'00'",
        "lower(hex(randomblob(16)))",
        "CURRENT_TIMESTAMP",
        "datetime('now', 'localtime')",
        "strftime('%s','now') * 1000",
        "julianday()",
        "abs(random())",
        "CAST(1 AS VARCHAR(10))",
        "CASE WHEN (1) THEN (2) ELSE (3) END",
        "1 IN (1, 2)",
        "json_array()",
        "zeroblob(16)",
    ],
)
def test_defaults_that_people_write_are_accepted(text: str) -> None:
    check_expression(text, Place.DEFAULT)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1",
        "1 /* x */",
        "1); DROP TABLE x; --",
        "1); DROP TABLE x;",
        "1, 2",
        "(1",
        "(SELECT 1)",
        "EXISTS (SELECT 1)",
        "load_extension('x')",
        "\"load_extension\"('x')",
        "[load_extension]('x')",
        "load_extension ('x')",
        "CAST(1 AS load_extension('x'))",
        "x AS load_extension(1)",
        "ATTACH 'x' AS y",
        "readfile('/etc/passwd')",
        "sqlite_version()",
        "last_insert_rowid()",
        "count(*)",
        "?1",
        ":name",
        "1 IN other",
        "'a' REGEXP 'b'",
        "'a' MATCH 'b'",
        "'a' COLLATE french",
        "zeroblob(1000000000)",
        "randomblob(9999999999)",
        "randomblob(1 * 1000000000)",
        "randomblob(16, 1)",
        "randomblob()",
        "RAISE(ABORT, 'x')",
        "max(1) OVER ()",
        "date(" * 101 + "1" + ")" * 101,
    ],
)
def test_defaults_that_reach_further_are_refused(text: str) -> None:
    with pytest.raises(Refusal):
        check_expression(text, Place.DEFAULT)


@pytest.mark.parametrize("place", [Place.GENERATED, Place.INDEX])
@pytest.mark.parametrize(
    "text", ["random()", "randomblob(4)", "CURRENT_TIME", "datetime('now')", "date(a, 'localtime')"]
)
def test_time_and_chance_are_for_defaults_only(text: str, place: Place) -> None:
    check_expression(text, Place.DEFAULT)
    with pytest.raises(Refusal):
        check_expression(text, place)
