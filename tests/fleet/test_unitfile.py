# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The unit-file parser, its hash, the [X-Fleet] section and globs."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from flotilla_fleet.unitfile import (
    Requirements,
    UnitFileError,
    UnitOption,
    check_options,
    check_requirements,
    glob_match,
    parse_unit,
    requirements,
    serialize,
    unit_hash,
)

HELLO = "[Unit]\nDescription=Hello\n\n[Service]\nExecStart=/bin/sleep infinity\n"


def options(*triples: tuple[str, str, str]) -> list[UnitOption]:
    return [UnitOption(*triple) for triple in triples]


def x_fleet(*pairs: tuple[str, str]) -> list[UnitOption]:
    return [UnitOption("X-Fleet", *pair) for pair in pairs]


# -- hashes seen on upstream fleet 1.0.0 ---------------------------------------


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        (HELLO, "3585129a937fa3d1ba1d97bf61790801d7efb4fd"),
        (
            "[Unit]\nDescription=hello\n[Service]\nExecStart=/bin/sleep infinity",
            "34f13d7f86cf7ed301df960aeae20d3e4bb83f81",
        ),
        (
            "[Service]\nExecStart=/bin/sleep infinity\n[X-Fleet]\nGlobal=true\n",
            "d7594b2e4f5933f0b3e48bc2e812b0c5955bd9c6",
        ),
        (
            "[Service]\nExecStart=/bin/sleep infinity\n",
            "8385c9176f09a5ee3bbb88d45c6fc3f0b69d1f52",
        ),
        (
            "[Service]\nExecStart=/bin/true\n\n[X-Fleet]\nBogus=1",
            "c9f6ca8cd76bed7c6bef735bb979ec094bf64000",
        ),
    ],
)
def test_hash_is_upstreams(text: str, digest: str) -> None:
    assert unit_hash(parse_unit(text)) == digest


# -- parsing -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (
            HELLO,
            options(("Unit", "Description", "Hello"), ("Service", "ExecStart", "/bin/sleep infinity")),
        ),
        ("[A]\r\nX=1\r\nY=2\r\n", options(("A", "X", "1"), ("A", "Y", "2"))),
        ("\ufeff[A]\nX=1", options(("A", "X", "1"))),
        ("Stray=1\n[A]\nX=1\n", options(("A", "X", "1"))),
        ("[A]  \n\t X \t=  1 = 2  \n", options(("A", "X", "1 = 2"))),
        ("[A]\n# one\n; two\nX=1 # kept\n", options(("A", "X", "1 # kept"))),
        ("# [A]\n[B]\nX=1", options(("B", "X", "1"))),
        # A backslash continues a comment too.
        ("[A]\n# one \\\nX=1\nY=2", options(("A", "Y", "2"))),
        ("[A]\n# one \\ \nX=1\nY=2", options(("A", "Y", "2"))),
        ("[A]\nX=\nX=1", options(("A", "X", ""), ("A", "X", "1"))),
        ("[A]\nX=a \\\n  b\nY=2", options(("A", "X", "a \\\n  b"), ("A", "Y", "2"))),
        ("[A]\r\nX=a \\\r\n  b\r\n", options(("A", "X", "a \\\n  b"))),
        ("[A]\nX=a \\\n\nY=2", options(("A", "X", "a \\\n"), ("A", "Y", "2"))),
        ("[A]\nX=a\\", options(("A", "X", "a\\"))),
        ("[A]\nX=a \\\n# b\nY=1", options(("A", "X", "a \\\n# b"), ("A", "Y", "1"))),
        (
            "[A]\nX=1\n[B]\nY=2\n[A]\nX=3",
            options(("A", "X", "1"), ("B", "Y", "2"), ("A", "X", "3")),
        ),
        ("[]\nX=1", options(("", "X", "1"))),
        ("[A]\n=1", options(("A", "", "1"))),
        ("[A]\nX=\N{SNOWMAN}\N{NO-BREAK SPACE}", options(("A", "X", "\N{SNOWMAN}"))),
    ],
)
def test_parse(text: str, expected: list[UnitOption]) -> None:
    assert parse_unit(text) == expected
    assert parse_unit(text.encode()) == expected


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[A]\nX=" + "y" * 2046, 2, "line too long (max 2048 bytes)"),
        ("[A]\n\nX=" + "é" * 1023 + "\n", 3, "line too long (max 2048 bytes)"),
        ("[A\nX=1", 1, "section header [A has no closing ]"),
        ("[A]\nX=1\n[B] b", 3, 'found garbage after section name B: "b"'),
        ("[A]\nX=1\nfoo\nY=1", 3, '"foo" is neither a section, a comment nor a name=value pair'),
        ("[A]\nfoo", 2, '"foo" is neither a section, a comment nor a name=value pair'),
        ("[A]\nX=1\0", 2, "the line holds a NUL byte"),
        ("[A]\nX=1 \\ \nY=2", 2, "white space after the backslash at the end of the line"),
        ("[A]\nX=\ud800", 2, "the text holds half of a surrogate pair, which is not UTF-8 text"),
        (b"[A]\nX=\xff", 2, "byte 0xff is not UTF-8 text"),
    ],
)
def test_parse_error(text: str | bytes, line: int, message: str) -> None:
    with pytest.raises(UnitFileError) as caught:
        parse_unit(text)
    assert (caught.value.line, caught.value.message) == (line, message)
    assert str(caught.value) == f"line {line}: {message}"


def test_longest_line_and_longer_ones_when_continued() -> None:
    assert len(parse_unit("[A]\nX=" + "y" * 2045)) == 1
    long = " \\\n".join(["y" * 2000] * 5)
    assert parse_unit(f"[A]\nX={long}\n") == options(("A", "X", long))


def test_serialize_groups_sections_and_keeps_order() -> None:
    assert serialize([]) == ""
    text = serialize(options(("A", "X", "1"), ("B", "Y", "2"), ("A", "X", "3")))
    assert text == "[A]\nX=1\nX=3\n\n[B]\nY=2\n"


_NAME = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0=[]#;"), max_size=8)
_LINE = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), max_size=12)


def _clean(text: str) -> str:
    return text.strip("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000").strip(
        "".join(chr(code) for code in range(0x2000, 0x200B))
    )


@st.composite
def _option(draw: st.DrawFn) -> UnitOption:
    lines = draw(st.lists(_LINE.filter(lambda line: line.strip()), max_size=3))
    value = _clean(" \\\n".join(lines))
    name = _clean(draw(_NAME))
    assume(name == _clean(name) and value == _clean(value) and not value.endswith("\\"))
    assume("\\\n\n" not in value)
    return UnitOption(draw(st.sampled_from(["Unit", "Service", "X-Fleet", "é"])), name, value)


@given(st.lists(_option(), max_size=8))
def test_what_is_written_is_read_back(wanted: list[UnitOption]) -> None:
    order = list(dict.fromkeys(option.section for option in wanted))
    grouped = sorted(wanted, key=lambda option: order.index(option.section))
    try:
        check_options(wanted)
    except UnitFileError:
        assume(False)  # an inner line that is white space or ends in a backslash by chance
    assert parse_unit(serialize(wanted)) == grouped
    assert unit_hash(wanted) == unit_hash(grouped)


_SNIPPETS = st.sampled_from(
    [
        "[A]",
        "[B]\n",
        "X=1",
        "Y =",
        "\\\n",
        "\\",
        "\r\n",
        "\n",
        "#",
        ";",
        " ",
        "]",
        "=",
        "\0",
        "é",
        "\x85",
    ]
)


def _parse(data: bytes) -> tuple[list[UnitOption], UnitFileError | None]:
    try:
        return parse_unit(data), None
    except UnitFileError as exc:
        return [], exc


@given(st.one_of(st.binary(), st.lists(_SNIPPETS, max_size=30).map(lambda parts: "".join(parts).encode())))
@example(b"[A]\nX=a \\\n \\\nY=1")
@example(b"[A]\nX=a\\\r\r\nY=1")
@example(b"[A]\nX=a\\\x0b\nY=1")
def test_any_bytes_are_read_the_same_way_twice_or_refused(data: bytes) -> None:
    found, fault = _parse(data)
    if fault:
        assert 1 <= fault.line <= data.count(b"\n") + 1
        return
    if found and any(option.value.endswith("\\") for option in found):
        return  # a file that ends in a backslash
    order = list(dict.fromkeys(option.section for option in found))
    assert parse_unit(serialize(found)) == sorted(found, key=lambda o: order.index(o.section))
    check_options(found)


# -- options that are no unit file ---------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        options(("Service", "ExecStart", "/bin/true\nUser=nobody")),
        options(("Service", "ExecStart\nUser", "x")),
        options(("Service", "A=B", "x")),
        options(("Service", "#A", "x")),
        options(("Ser]vice", "A", "x")),
        options(("Service", "A", "one\\"), ("Service", "B", "two")),
        options(("Service", "A", "one\n# two")),
        options(("Service", "A", "\ud800")),
        options(("Service", "A", "x" * 2100)),
        options(("Service", "A", "x\0")),
    ],
)
def test_options_that_would_be_read_back_as_others_are_refused(bad: list[UnitOption]) -> None:
    with pytest.raises(UnitFileError) as caught:
        check_options(bad)
    assert caught.value.line == 0


def test_white_space_around_values_is_no_reason_to_refuse() -> None:
    check_options(options(("Service", " ExecStart", " /bin/true "), ("Service", "A", "a \\\n b")))


def test_long_line_has_upstreams_words() -> None:
    with pytest.raises(UnitFileError) as caught:
        check_options(options(("Service", "ExecStart", "/bin/echo " + "y" * 3000)))
    assert caught.value.message == "line too long (max 2048 bytes)"


# -- [X-Fleet] -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([], Requirements()),
        ([("MachineID", "abc"), ("MachineID", "def")], Requirements(machine_id="abc")),
        (
            [("X-ConditionMachineBootID", "b"), ("X-ConditionMachineID", "c"), ("MachineID", "a")],
            Requirements(machine_id="a"),
        ),
        (
            [("X-ConditionMachineBootID", "b"), ("X-ConditionMachineID", "c")],
            Requirements(machine_id="c"),
        ),
        ([("X-ConditionMachineBootID", "b")], Requirements(machine_id="b")),
        (
            [
                ("MachineMetadata", '"az=1" "az=2"'),
                ("X-ConditionMachineMetadata", "role=web"),
                ("MachineMetadata", "az=1"),
            ],
            Requirements(metadata=(("az", ("1", "2")), ("role", ("web",)))),
        ),
        (
            [("MachineMetadata", v) for v in ("a", "a=", "=b", "a=b=c", "a=b c=d")],
            Requirements(ignored=("a", "a=", "=b", "a=b=c", "a=b c=d")),
        ),
        (
            [("MachineOf", "a.service"), ("X-ConditionMachineOf", "b.service c.service")],
            Requirements(peers=("a.service", "b.service c.service")),
        ),
        (
            [("X-Conflicts", "a* b*"), ("Conflicts", '"c d" e'), ("Conflicts", "a*")],
            Requirements(conflicts=('"c', 'd"', "e", "a*", "b*")),
        ),
        ([("Conflicts", '"c d" "e"')], Requirements(conflicts=("c", "d", "e"))),
        ([("Replaces", "a b")], Requirements(replaces=("a b",))),
        ([("Global", "false"), ("Global", "Yes")], Requirements(is_global=True)),
        ([("Global", "true"), ("Global", "0")], Requirements()),
        ([("Bogus", "1"), ("global", "true")], Requirements(unknown=("Bogus", "global"))),
    ],
)
def test_requirements(pairs: list[tuple[str, str]], expected: Requirements) -> None:
    found = requirements("a.service", x_fleet(*pairs))
    if expected.conflicts:
        assert sorted(found.conflicts) == sorted(expected.conflicts)
    else:
        assert found == expected


@pytest.mark.parametrize("value", ["true", "YES", "1", "On", "t"])
def test_global_spellings(value: str) -> None:
    assert requirements("a.service", x_fleet(("Global", value))).is_global


def test_only_x_fleet_counts() -> None:
    assert requirements("a.service", options(("Unit", "Conflicts", "b"))) == Requirements()


def test_specifiers_are_expanded() -> None:
    needs = requirements(
        "web@2.service",
        x_fleet(
            ("Conflicts", "%p@*.service"),
            ("MachineOf", "db@%i.service"),
            ("MachineMetadata", "slot=%i"),
            ("Replaces", "old-%N.service"),
        ),
    )
    assert needs.conflicts == ("web@*.service",)
    assert needs.peers == ("db@2.service",)
    assert needs.metadata == (("slot", ("2",)),)
    assert needs.replaces == ("old-web@2.service",)


def test_a_requirement_that_expands_to_nothing_does_not_vanish() -> None:
    needs = requirements("plain.service", x_fleet(("MachineID", "%i"), ("MachineOf", "%i")))
    assert (needs.machine_id, needs.peers) == ("%i", ("%i",))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("Conflicts", "a"), ("Replaces", "b")], "Conflicts cannot be used with Replaces"),
        ([("Global", "true"), ("MachineOf", "b")], "Global cannot be used with Peers"),
        ([("Global", "true"), ("Replaces", "b")], "Global cannot be used with Replaces"),
        ([("MachineID", "abc"), ("Conflicts", "b")], "MachineID cannot be used with Conflicts"),
        ([("MachineID", "abc"), ("Global", "true")], "MachineID cannot be used with Global"),
        ([("MachineID", "abc"), ("MachineOf", "b")], "MachineID cannot be used with Peers"),
        ([("MachineID", "abc"), ("Replaces", "b")], "MachineID cannot be used with Replaces"),
        (
            [("MachineOf", "b.service"), ("Conflicts", "b*")],
            'unresolvable requirements: peer "b.service" matches conflict "b*"',
        ),
        (
            [("MachineOf", "b.service"), ("Replaces", "b.service")],
            'unresolvable requirements: peer "b.service" matches replace "b.service"',
        ),
        # Order: conflicts before replaces before combinations.
        (
            [("MachineID", "m"), ("MachineOf", "b"), ("Replaces", "b"), ("Conflicts", "b")],
            'unresolvable requirements: peer "b" matches conflict "b"',
        ),
        (
            [("MachineID", "m"), ("MachineOf", "a"), ("Conflicts", "b")],
            "MachineID cannot be used with Peers",
        ),
        (
            [("MachineID", "")],
            "MachineID in section [X-Fleet] has no value, give one or leave the line out",
        ),
        (
            [("MachineOf", '""')],
            "MachineOf in section [X-Fleet] has no value, give one or leave the line out",
        ),
    ],
)
def test_requirements_that_can_never_be(pairs: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(UnitFileError) as caught:
        check_requirements(x_fleet(*pairs))
    assert caught.value.message == message


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [("MachineID", "a"), ("MachineMetadata", "a=b")],
        [("Global", "true"), ("Conflicts", "b"), ("MachineMetadata", "a=b")],
        [("Global", "false"), ("Replaces", "b")],
        [("Bogus", "1")],
        [("MachineOf", "b.service"), ("Conflicts", "[")],
    ],
)
def test_requirements_that_go_together(pairs: list[tuple[str, str]]) -> None:
    check_requirements(x_fleet(*pairs))


# -- globs: the results of Go's path.Match -------------------------------------


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("abc", "abc", True),
        ("*", "abc", True),
        ("*c", "abc", True),
        ("a*", "a", True),
        ("a*", "abc", True),
        ("a*", "ab/c", False),
        ("a*/b", "abc/b", True),
        ("a*/b", "a/c/b", False),
        ("a*b*c*d*e*/f", "axbxcxdxe/f", True),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f", True),
        ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", False),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", False),
        ("a*b?c*x", "abxbbxdbxebxczzx", True),
        ("a*b?c*x", "abxbbxdbxebxczzy", False),
        ("ab[c]", "abc", True),
        ("ab[b-d]", "abc", True),
        ("ab[e-g]", "abc", False),
        ("ab[^c]", "abc", False),
        ("ab[^b-d]", "abc", False),
        ("ab[^e-g]", "abc", True),
        ("a\\*b", "a*b", True),
        ("a\\*b", "ab", False),
        ("a?b", "a\N{SNOWMAN}b", True),
        ("a[^a]b", "a\N{SNOWMAN}b", True),
        ("a???b", "a\N{SNOWMAN}b", False),
        ("[a-\N{GREEK SMALL LETTER ZETA}]*", "\N{GREEK SMALL LETTER ALPHA}", True),
        ("*[a-\N{GREEK SMALL LETTER ZETA}]", "A", False),
        ("a?b", "a/b", False),
        ("a*b", "a/b", False),
        ("[\\]a]", "]", True),
        ("[\\-]", "-", True),
        ("[x\\-]", "x", True),
        ("[x\\-]", "z", False),
        ("[\\-x]", "a", False),
        # malformed, so no match
        ("[]a]", "]", False),
        ("[-]", "-", False),
        ("[x-]", "x", False),
        ("[-x]", "-", False),
        ("\\", "a", False),
        ("[a-b-c]", "a", False),
        ("[", "a", False),
        ("[^", "a", False),
        ("[^bc", "a", False),
        ("a[", "a", False),
        ("a[", "ab", False),
        ("*x", "xxx", True),
        ("", "", True),
        ("*", "", True),
        ("**", "abc", True),
        ("", "a", False),
        ("?", "", False),
        ("web@*.service", "web@1.service", True),
        ("web@*.service", "web@.service", True),
        ("web@*.service", "web.service", False),
    ],
)
def test_glob(pattern: str, name: str, matches: bool) -> None:
    assert glob_match(pattern, name) is matches


@given(st.text(alphabet="ab*?/", max_size=12), st.text(alphabet="ab/", max_size=12))
def test_glob_agrees_with_the_definition(pattern: str, name: str) -> None:
    """Against the definition written as recursion, which is slow but plain to read."""

    def match(glob: str, text: str) -> bool:
        if not glob:
            return not text
        if glob[0] == "*":
            return match(glob[1:], text) or (text[:1] not in ("", "/") and match(glob, text[1:]))
        return bool(text) and (glob[0] == text[0] or (glob[0] == "?" and text[0] != "/")) and match(glob[1:], text[1:])

    assert glob_match(pattern, name) == match(pattern, name)


def test_a_glob_of_many_stars_is_fast() -> None:
    assert not glob_match("*a" * 60 + "b", "a" * 250)
