"""Tests of finding the lines of tables and keys."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ota_server.fleet.toml_lines import MAX_DEPTH, Path, find_lines, line_of

_ODD = '''\
# = "no [key]
soak = "30m"  # a, ] b = 1
stages = [ # x, ]
  "1", # "
  """5
6""""", '#', 'a]'
  ,
  [1, {a = 1, b.c = 2}],
]
[a."b.c"] # [c]
d . e = 1979-05-27 07:32:00 # t
"q\\"\\u00e9\\\\" = """\\"""" # " """
"" = ''
text = """
[projects.lamp]
hold = true \\
""""
literal = \'\'\'
x = ['\'\'\'
'single"' = 'C:\\'
[[ x . 'y z' ]]
\tk = {}
halt = { failures = 2, share = "10%" }
[[x."y z"]]
k = [[], [ ], {}]
[ last ]
1.2 = 3.4
'''

_LINES: dict[Path, int] = {
    ("soak",): 2,
    ("stages",): 3,
    ("stages", 0): 4,
    ("stages", 1): 5,
    ("stages", 2): 6,
    ("stages", 3): 6,
    ("stages", 4): 8,
    ("stages", 4, 0): 8,
    ("stages", 4, 1): 8,
    ("stages", 4, 1, "a"): 8,
    ("stages", 4, 1, "b"): 8,
    ("stages", 4, 1, "b", "c"): 8,
    ("a",): 10,
    ("a", "b.c"): 10,
    ("a", "b.c", "d"): 11,
    ("a", "b.c", "d", "e"): 11,
    ("a", "b.c", 'q"é\\'): 12,
    ("a", "b.c", ""): 13,
    ("a", "b.c", "text"): 14,
    ("a", "b.c", "literal"): 18,
    ("a", "b.c", 'single"'): 20,
    ("x",): 21,
    ("x", "y z"): 21,
    ("x", "y z", "k"): 22,
    ("x", "y z", "halt"): 23,
    ("x", "y z", "halt", "failures"): 23,
    ("x", "y z", "halt", "share"): 23,
    ("x", "y z", "k", 0): 25,
    ("x", "y z", "k", 1): 25,
    ("x", "y z", "k", 2): 25,
    ("last",): 26,
    ("last", "1"): 27,
    ("last", "1", "2"): 27,
}

_CHARACTERS = st.characters(exclude_categories=["Cc", "Cs"], exclude_characters='"\\').map(str)
_QUOTED = st.lists(_CHARACTERS | st.sampled_from(["\\n", '\\"', "\\u00e9", "\\\\"]), max_size=6).map(
    lambda parts: f'"{"".join(parts)}"'
)
_KEYS = st.from_regex(r"\A[A-Za-z0-9_-]{1,6}\Z") | _QUOTED | st.sampled_from(["'a.b'", "'# ]'", '"[x]"', "''"])
_SCALARS = st.sampled_from(
    ["1", "-1.5e3", "true", "nan", "1979-05-27 07:32:00", "07:32:00", '"a # b, ] } \\" = "', "'\\'", '"""\n# ]\n"""""',
     "'''\n[a]\nb = 1\n''''", '""', "''", '""""""', '"""a"b""c\\""""', "1979-05-27T07:32:00Z"]
)  # fmt: skip
_BREAKS = st.sampled_from(["", " ", "\n", " # c, ]\n", "\r\n\t"])
_GAPS = st.sampled_from(["", "\n", "# c, ]\n", "\r\n\t"])


@st.composite
def _lists(draw: st.DrawFn, items: st.SearchStrategy[str]) -> str:
    parts = [f"{draw(_BREAKS)}{item}{draw(_BREAKS)}" for item in draw(st.lists(items, max_size=4))]
    return f"[{','.join(parts)}{draw(_BREAKS)}]"


@st.composite
def _tables(draw: st.DrawFn, items: st.SearchStrategy[str]) -> str:
    pairs = {f"k{number}": item for number, item in enumerate(draw(st.lists(items, max_size=3)))}
    return "{" + ", ".join(f"{key}{draw(st.sampled_from(['', ' ']))}= {item}" for key, item in pairs.items()) + "}"


_VALUES = st.recursive(_SCALARS, lambda items: _lists(items) | _tables(items), max_leaves=6)


def _paths(value: object, path: Path = ()) -> Iterator[Path]:
    """Go through the paths of all that is in a value."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _paths(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _paths(item, (*path, number))


class FindLinesTests(SynchronousTestCase):
    """`find_lines` tells where everything stands."""

    def test_odd_forms(self) -> None:
        """Comments, quotes, lists and texts of several lines, dots and inline tables don't confuse it."""
        tomllib.loads(_ODD)
        self.assertEqual(dict(find_lines(_ODD)), _LINES)

    def test_line_ends_of_windows(self) -> None:
        """Lines that end as on Windows are counted alike."""
        text = _ODD.replace("\n", "\r\n")
        tomllib.loads(text)
        self.assertEqual(dict(find_lines(text)), _LINES)

    def test_no_line_end_at_the_end(self) -> None:
        """The last line may end without one, and a text may be empty."""
        self.assertEqual(find_lines("\n\na = 1 # x"), {("a",): 3})
        self.assertEqual(find_lines("[a]"), {("a",): 1})
        self.assertEqual(find_lines(""), {})
        self.assertEqual(find_lines("# only"), {})

    def test_first_place_counts(self) -> None:
        """Of a table that is mentioned several times the first place is told."""
        self.assertEqual(find_lines("[a.b]\n[a]\nc = 1\n")[("a",)], 1)

    def test_depth(self) -> None:
        """Paths deeper than any that a policy has aren't noted, however deep they are."""
        key = ".".join(["a"] * 2000)
        lines = find_lines(f"{key} = 1\nb = 2\n")
        self.assertEqual(max(len(path) for path in lines), MAX_DEPTH)
        self.assertEqual(lines[("b",)], 2)

    def test_what_is_no_toml(self) -> None:
        """What comes before something that is no TOML is told."""
        for rest in ("=", "a", "a = ", "a = [1", 'a = "', "[", "[a", "a = {b}", "a.", '"', "\0", "[!]"):
            with self.subTest(rest):
                self.assertEqual(find_lines(f"x = 1\n\ny = 2\n{rest}").get(("y",)), 3)

    @settings(deadline=None, max_examples=200)
    @given(
        st.lists(
            st.tuples(st.sampled_from(["table", "tables", "dotted", "plain"]), _KEYS, _KEYS, _VALUES, _GAPS),
            max_size=6,
            unique_by=lambda each: tomllib.loads(f"{each[1]} = 1").popitem()[0],
        )
    )
    def test_made_up(self, statements: list[tuple[str, str, str, str, str]]) -> None:
        """Every key of a made-up file is on the line where it was written, and every item is somewhere."""
        # What isn't in a table comes first.
        statements.sort(key=lambda each: each[0].startswith("table"))
        text = ""
        expected: dict[Path, int] = {}
        for form, first, second, value, gap in statements:
            line = text.count("\n") + 1
            (key,), (inner,) = tomllib.loads(f"{first} = 1"), tomllib.loads(f"{second} = 1")
            expected[(key,)] = line
            if form == "plain":
                text += f"{first} = {value} # {second} = 1\n{gap}"
            elif form == "dotted":
                text += f"{first} . {second}={value}\n"
                expected[(key, inner)] = line
            else:
                brackets = 1 + (form == "tables")
                text += f"{'[' * brackets}{first}{']' * brackets} # [x]\n{gap}"
                expected[(key, inner)] = text.count("\n") + 1
                text += f"{second} = {value}\n"
        data = tomllib.loads(text)
        lines = find_lines(text)
        for path, line in expected.items():
            self.assertEqual(lines[path], line)
        for path in _paths(data):
            # A list of tables has one table here, whose keys are noted without its number.
            if _form_of(statements, path) != "tables":
                self.assertIn(path, lines)

    @settings(deadline=None, max_examples=200)
    @given(st.text(max_size=60) | st.text("[]{}=.,'\"#\\\n a1", max_size=60))
    def test_any_text(self, text: str) -> None:
        """Any text is gone through, and no line is told that it hasn't."""
        for line in find_lines(text).values():
            self.assertIn(line, range(1, text.count("\n") + 2))


def _form_of(statements: list[tuple[str, str, str, str, str]], path: Path) -> str:
    """Return in which form of statement a path was written."""
    return next(form for form, first, *_ in statements if [*tomllib.loads(f"{first} = 1")] == [path[0]])


class LineOfTests(SynchronousTestCase):
    """`line_of` tells the line of a path, or of what is nearest."""

    def test_nearest(self) -> None:
        """What has no line of its own is where the table above it is."""
        lines = find_lines("\n[a]\n\nb = 1\n")
        for path, line in ((("a", "b"), 4), (("a", "b", 3), 4), (("a", "c"), 2), (("x",), 1), ((), 1)):
            with self.subTest(path):
                self.assertEqual(line_of(lines, path), line)
