"""The text of SQLite's SQL, as tokens: quoting names, reading literals, and judging expressions.

This file knows how SQLite splits SQL into tokens (its `tokenize.c`) and which expressions of a table's schema
may travel to another device. It must not know tables, files or connections. The one idea: an expression is
never trusted as text; it is split into tokens, every token must be of a kind that we expect, every function
must be on a list, and what is executed later is written anew from those tokens.
"""

import re
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from crdtlog import errors


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


COLLATIONS = frozenset({"BINARY", "NOCASE", "RTRIM"})
"""The collations that every SQLite has."""

LARGEST_BLOB = 65_536
"""What `zeroblob(n)` and `randomblob(n)` may ask for in an expression, in bytes."""

DEEPEST_NESTING = 100
"""How many parentheses may stand within one another: a bound on the work of checking, near SQLite's own."""

_DETERMINISTIC = _set(
    """
    abs ceil ceiling char coalesce concat concat_ws cos cosh acos acosh asin asinh atan atan2 atanh date
    datetime degrees exp floor format glob hex if ifnull iif instr json json_array json_array_insert
    json_array_length json_error_position json_extract json_insert json_object json_patch json_pretty
    json_quote json_remove json_replace json_set json_type json_valid jsonb jsonb_array jsonb_array_insert
    jsonb_extract jsonb_insert jsonb_object jsonb_patch jsonb_remove jsonb_replace jsonb_set julianday length
    like likelihood likely ln log log10 log2 lower ltrim max min mod nullif octet_length pi pow power printf
    quote radians replace round rtrim sign sin sinh soundex sqrt strftime substr substring tan tanh time
    timediff trim trunc typeof unhex unicode unistr unistr_quote unixepoch unlikely upper zeroblob
    """
)
_VOLATILE = frozenset({"random", "randomblob"})
FUNCTIONS = _DETERMINISTIC | _VOLATILE | {"->", "->>", "current_date", "current_time", "current_timestamp"}
"""Every built-in function that any accepted expression may reach, by SQLite's name for it."""

_SIZED = frozenset({"zeroblob", "randomblob"})
_TIME_FUNCTIONS = frozenset({"date", "time", "datetime", "julianday", "strftime", "unixepoch", "timediff"})
_FORBIDDEN_WORDS = _set("SELECT VALUES WITH EXISTS RAISE MATCH REGEXP OVER FILTER ATTACH DETACH PRAGMA")
_NOW_WORDS = frozenset({"CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP"})
_WORDS_BEFORE_PARENTHESIS = _set(
    "AND OR NOT IN BETWEEN CASE WHEN THEN ELSE LIKE GLOB IS ISNULL NOTNULL ESCAPE CAST FROM"
)
_TYPE_ENDS = _set("CONSTRAINT PRIMARY NOT NULL UNIQUE CHECK DEFAULT COLLATE REFERENCES AS")
_STANDARD_TYPES = frozenset({"ANY", "BLOB", "INT", "INTEGER", "REAL", "TEXT"})


class Refusal(Exception):
    """Why some SQL text cannot be read or accepted, as a clause, and the next step."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


class Kind(Enum):
    """What a token is. WORD is bare (keyword or name), QUOTED is "x", [x] or `x`, STRING is 'x'."""

    WORD = "word"
    QUOTED = "quoted"
    STRING = "string"
    NUMBER = "number"
    BLOB = "blob"
    VARIABLE = "variable"
    OPERATOR = "operator"
    END = "end"


NAME_KINDS = frozenset({Kind.WORD, Kind.QUOTED, Kind.STRING})
"""SQLite takes any of these where a name is expected."""


class Token(NamedTuple):
    """One token: its exact text, and whether white space or a comment stood before it."""

    kind: Kind
    text: str
    spaced: bool

    @property
    def word(self) -> str:
        """The keyword in capitals, or "" if this is no bare word."""
        return self.text.upper() if self.kind is Kind.WORD else ""

    @property
    def name(self) -> str:
        """What a name or string means once its quotes are taken off."""
        if self.kind not in (Kind.QUOTED, Kind.STRING):
            return self.text
        mark = self.text[0]
        return self.text[1:-1] if mark == "[" else self.text[1:-1].replace(mark * 2, mark)


_END = Token(Kind.END, "", False)
_LETTER = r"A-Za-z_\x80-\U0010ffff"
_SPACE = re.compile(r"(?:[ \t\n\f\r]|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))*", re.DOTALL)
# Atomic groups keep "1.e" from being read as the number 1 and a dot, which SQLite would refuse.
_TOKEN = re.compile(
    rf"""
      (?P<blob>    [xX]'(?:[0-9A-Fa-f]{{2}})*' )
    | (?P<word>    (?![xX]') (?!\ufeff) [{_LETTER}][{_LETTER}0-9$]* )
    | (?P<quoted>  "(?>(?:[^"]+|"")*)" | `(?>(?:[^`]+|``)*)` | \[[^\]]*\] )
    | (?P<string>  '(?>(?:[^']+|'')*)' )
    | (?P<number>  (?>0[xX][0-9A-Fa-f]+|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
                   (?![{_LETTER}0-9$]) )
    | (?P<variable> \?[0-9]* | [:@$\#][{_LETTER}0-9$]+ )
    | (?P<operator> ->>|->|\|\||<=|<>|<<|<|>=|>>|>|==|=|!=|[-+*/%&|~(),.;] )
    """,
    re.VERBOSE | re.DOTALL,
)


def tokenize(sql: str) -> list[Token]:
    """Split SQL as SQLite does, without white space and comments. Raises `Refusal` at what is no token."""
    if "\0" in sql or not is_unicode(sql):
        raise Refusal("its SQL text contains a character that SQL text cannot hold")
    tokens: list[Token] = []
    position = 0
    while True:
        start = position
        blank = _SPACE.match(sql, position)
        position = blank.end() if blank else position
        if position == len(sql):
            return tokens
        match = _TOKEN.match(sql, position)
        if match is None or match.lastgroup is None:
            raise Refusal(f"its SQL text cannot be read at {sql[position : position + 20]!r}")
        tokens.append(Token(Kind(match.lastgroup), match.group(), position > start))
        position = match.end()


def render(tokens: Iterable[Token]) -> str:
    """The tokens as SQL: comments gone, and one space wherever there was any space."""
    text = "".join(" " + token.text if token.spaced else token.text for token in tokens)
    return text.removeprefix(" ")


def normal(text: str) -> str:
    """The form of an expression that is stored and exchanged. `normal(normal(x)) == normal(x)`."""
    return render(tokenize(text))


def is_unicode(text: str) -> bool:
    """Whether text can be stored as UTF-8 (it holds no lone surrogate)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def quote(name: str) -> str:
    """A name as an SQL identifier. Raises `errors.Malformed` for a name that no SQL text can hold."""
    if "\0" in name or not is_unicode(name):
        raise errors.Malformed(f"{name!r} cannot be a name in SQL", "use a name without NUL characters")
    return '"' + name.replace('"', '""') + '"'


def quote_string(text: str) -> str:
    """Text as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def fold(name: str) -> str:
    """A name as SQLite compares it: only the letters A-Z lose their case."""
    return re.sub("[A-Z]+", lambda match: match.group().lower(), name)


class Reader:
    """A position in a list of tokens, and the few steps a parser of definitions needs."""

    def __init__(self, tokens: Sequence[Token], start: int = 0) -> None:
        self._tokens = tokens
        self._position = start

    def peek(self, ahead: int = 0) -> Token:
        """The token to come, without taking it; an END token behind the last."""
        index = self._position + ahead
        return self._tokens[index] if index < len(self._tokens) else _END

    def take(self) -> Token:
        """The token to come. Raises `Refusal` behind the last one."""
        token = self.peek()
        if token is _END:
            raise Refusal("its SQL text ends too early")
        self._position += 1
        return token

    @property
    def done(self) -> bool:
        """Whether every token is taken."""
        return self.peek() is _END

    def words(self, *words: str) -> bool:
        """Take these keywords if all of them come next, in this order."""
        if any(self.peek(ahead).word != word for ahead, word in enumerate(words)):
            return False
        self._position += len(words)
        return True

    def operator(self, text: str) -> bool:
        """Take this operator if it comes next."""
        token = self.peek()
        found = token.kind is Kind.OPERATOR and token.text == text
        self._position += found
        return found

    def expect_words(self, *words: str) -> None:
        """Take these keywords, or refuse."""
        if not self.words(*words):
            raise self.unexpected()

    def name(self) -> str:
        """Take a name, bare or quoted, and return what it means."""
        if self.peek().kind not in NAME_KINDS:
            raise self.unexpected()
        return self.take().name

    def inside(self) -> list[Token]:
        """Take a balanced ( … ) and return the tokens between."""
        if not self.operator("("):
            raise self.unexpected()
        start, depth = self._position, 1
        while depth:
            token = self.take()
            if token.kind is Kind.OPERATOR:
                depth += (token.text == "(") - (token.text == ")")
        return list(self._tokens[start : self._position - 1])

    def unexpected(self) -> Refusal:
        """The refusal of the token to come."""
        token = self.peek()
        return Refusal(
            "its SQL text ends too early" if token is _END else f"{token.text!r} was not expected there"
        )


def split_commas(tokens: Sequence[Token]) -> list[list[Token]]:
    """Cut at the commas that stand in no parentheses."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        if token.kind is Kind.OPERATOR:
            depth += (token.text == "(") - (token.text == ")")
            if token.text == "," and depth == 0:
                parts.append([])
                continue
        parts[-1].append(token)
    return parts


# --- declared types -----------------------------------------------------------------------------------------


def read_type(reader: Reader) -> str | None:
    """Take a declared type such as `VARCHAR ( 10 )`; return its normal form `VARCHAR(10)`, "" for none.

    None means that it is written with quotes, which SQLite takes off in its own way.
    """
    words, quoted = [], False
    while reader.peek().kind in NAME_KINDS and reader.peek().word not in _TYPE_ENDS:
        if reader.peek().word == "GENERATED" and reader.peek(1).word == "ALWAYS":
            break
        token = reader.take()
        quoted = quoted or token.kind is not Kind.WORD
        words.append(token.text)
    numbers = []
    if words and reader.operator("("):
        numbers.append(_read_signed(reader))
        if reader.operator(","):
            numbers.append(_read_signed(reader))
        if not reader.operator(")"):
            raise reader.unexpected()
    text = " ".join(words)
    # SQLite 3.37 and later report the standard types in capitals however they were written, earlier ones do
    # not.
    if not numbers and text.upper() in _STANDARD_TYPES:
        text = text.upper()
    return None if quoted else text + (f"({','.join(numbers)})" if numbers else "")


def _read_signed(reader: Reader) -> str:
    sign = "-" if reader.operator("-") else "+" if reader.operator("+") else ""
    if reader.peek().kind is not Kind.NUMBER:
        raise reader.unexpected()
    return sign + reader.take().text


def normal_type(text: str) -> str:
    """The normal form of a declared type. Raises `Refusal` if it is more than words and two numbers."""
    reader = Reader(tokenize(text))
    found = read_type(reader)
    if found is None or not reader.done:
        raise Refusal(f"the type {text!r} cannot be read")
    return found


# --- expressions --------------------------------------------------------------------------------------------


class Place(Enum):
    """Where an expression stands. Only a default, evaluated once at insert, may depend on time and chance."""

    DEFAULT = "default"
    GENERATED = "generated column"
    INDEX = "index"


def check_expression(text: str, place: Place) -> None:
    """Refuse an expression that is not one harmless expression over built-in functions. Raises `Refusal`.

    This is the guard that matters for defaults: SQLite shows neither the parts nor the functions of a DEFAULT
    to an authorizer (measured). That the names in it fit the table is left to compiling it.
    """
    tokens = tokenize(text)
    if not tokens or render(tokens) != text:
        raise Refusal(f"the {place.value} expression {_short(text)} is not in normal form")
    try:
        _check_parentheses(tokens)
        for position, token in enumerate(tokens):
            _check_token(tokens, position, token, place)
    except Refusal as refusal:
        raise Refusal(f"the {place.value} expression {_short(text)} {refusal.reason}", refusal.hint) from None


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _check_parentheses(tokens: Sequence[Token]) -> None:
    depth = 0
    for token in tokens:
        if token.kind is Kind.OPERATOR:
            depth += (token.text == "(") - (token.text == ")")
            if token.text == ";" or (token.text == "," and depth == 0) or depth < 0:
                raise Refusal("is not one expression")
            if depth > DEEPEST_NESTING:
                raise Refusal(f"has more than {DEEPEST_NESTING} parentheses within one another")
    if depth:
        raise Refusal("is not one expression")


def _check_token(tokens: Sequence[Token], position: int, token: Token, place: Place) -> None:
    after = tokens[position + 1] if position + 1 < len(tokens) else _END
    if token.kind is Kind.VARIABLE:
        raise Refusal(f"has a parameter {token.text!r}")
    if token.word in _FORBIDDEN_WORDS:
        raise Refusal(f"uses {token.word}")
    if token.word in _NOW_WORDS and place is not Place.DEFAULT:
        raise Refusal(f"uses {token.word}, which changes from one moment to the next")
    if token.word == "IN" and after.text != "(":
        raise Refusal("reads another table")
    if token.word == "COLLATE" and after.name.upper() not in COLLATIONS:
        raise Refusal(f"uses the collation {after.name!r}, which other devices may lack")
    if token.word == "AS":
        _check_cast(Reader(tokens, position + 1))
    called = token.kind in NAME_KINDS and after.text == "(" and token.word not in _WORDS_BEFORE_PARENTHESIS
    if called and not _is_cast_type(tokens, position):
        _check_function(tokens, position, place)


def _check_cast(reader: Reader) -> None:
    if not read_type(reader) or not reader.operator(")"):
        raise Refusal("has a CAST that cannot be read")


def _is_cast_type(tokens: Sequence[Token], position: int) -> bool:
    """Whether the words up to this one follow AS: then `VARCHAR(10)` is a type and no function call."""
    while position >= 0 and tokens[position].kind is Kind.WORD:
        if tokens[position].word == "AS":
            return True
        position -= 1
    return False


def _check_function(tokens: Sequence[Token], position: int, place: Place) -> None:
    name = tokens[position].name.lower()
    if name not in _DETERMINISTIC and not (name in _VOLATILE and place is Place.DEFAULT):
        raise Refusal(
            f"calls {name}()",
            "use only SQLite's own functions, and in generated columns and indexes only deterministic ones",
        )
    arguments = tokens[position + 2 : position + 4]
    if name in _SIZED:
        size = arguments[0].text if arguments and arguments[0].kind is Kind.NUMBER else ""
        if (
            not size.isdecimal()
            or int(size[:9]) > LARGEST_BLOB
            or arguments[1:2] == []
            or arguments[1].text != ")"
        ):
            raise Refusal(f"calls {name}() with something else than a number up to {LARGEST_BLOB}")
    if (
        name in _TIME_FUNCTIONS
        and place is not Place.DEFAULT
        and any(
            token.kind is Kind.STRING and token.name.lower() in ("now", "localtime")
            for token in Reader(tokens, position + 1).inside()
        )
    ):
        raise Refusal(f"calls {name}() with the present time or place")
