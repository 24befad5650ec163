# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unit names: what is taken, what is refused with which words, and their parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_fleet import unitname


@pytest.mark.parametrize(
    "name",
    [
        "a.service",
        "a.b.service",
        "web@.service",
        "web@1.service",
        "web@a@b.service",
        "dev-disk-by\\x2dlabel.mount",
        "0:_.-.timer",
        "x" * 248 + ".service",
        ".service",
    ],
)
def test_valid(name: str) -> None:
    unitname.validate_unit_name(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "unit name cannot be empty"),
        ("x" * 249 + ".service", "unit name exceeds maximum length (256)"),
        ("é" * 125 + ".service", "unit name exceeds maximum length (256)"),
        ("a", 'unit name must contain "."'),
        ("a.", 'unit name cannot end in "."'),
        ("a.foo", 'invalid unit type: "foo"'),
        ('a."\n', 'invalid unit type: "\\"\\n"'),
        ("a@1.mount", 'invalid unit type for template: "mount"'),
        ("a%b.service", "invalid character '%' in unit name"),
        ("a b.service", "invalid character ' ' in unit name"),
        ("a'b.service", "invalid character '\\'' in unit name"),
        ("a\x7fb.service", "invalid character '\\x7f' in unit name"),
        ("é.service", "invalid character 'é' in unit name"),
        ("../a.service", "invalid character '/' in unit name"),
        ("\ud800.service", "invalid character '\\ud800' in unit name"),
        ("@a.service", 'unit name cannot start in "@"'),
        # The order of the checks: length, dot, type, template type, characters, leading @.
        ("%" * 300, "unit name exceeds maximum length (256)"),
        ("%.foo", 'invalid unit type: "foo"'),
        ("@%.mount", 'invalid unit type for template: "mount"'),
        ("@%.service", "invalid character '%' in unit name"),
    ],
)
def test_refused(name: str, message: str) -> None:
    with pytest.raises(unitname.UnitNameError) as caught:
        unitname.validate_unit_name(name)
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", ["snapshot", "busname"])
def test_types_that_systemd_dropped_are_refused_by_name(kind: str) -> None:
    with pytest.raises(unitname.UnitNameError, match=f'"{kind}" no longer exists in systemd, use'):
        unitname.validate_unit_name(f"a.{kind}")


@pytest.mark.parametrize("kind", unitname.UNIT_TYPES)
def test_every_type_is_taken(kind: str) -> None:
    unitname.validate_unit_name(f"a.{kind}")
    assert unitname.append_suffix(f"a.{kind}") == f"a.{kind}"


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("hello", "hello.service"),
        ("hello.service", "hello.service"),
        ("a.target", "a.target"),
        ("web@1", "web@1.service"),
        ("v1.2", "v1.2.service"),
        ("a.snapshot", "a.snapshot"),
        (".service", ".service.service"),
    ],
)
def test_append_suffix(name: str, full: str) -> None:
    assert unitname.append_suffix(name) == full


@pytest.mark.parametrize(
    ("name", "prefix", "instance", "template", "kind"),
    [
        ("a.service", "a", "", "", "plain"),
        ("a.b.service", "a.b", "", "", "plain"),
        ("web@.service", "web", "", "web@.service", "template"),
        ("web@1.service", "web", "1", "web@.service", "instance"),
        ("web@1.2.service", "web", "1.2", "web@.service", "instance"),
        ("web@a@b.socket", "web", "a@b", "web@.socket", "instance"),
    ],
)
def test_parts(name: str, prefix: str, instance: str, template: str, kind: str) -> None:
    assert unitname.prefix_of(name) == prefix
    assert unitname.instance_of(name) == instance
    assert unitname.template_of(name) == template
    assert unitname.is_template(name) == (kind == "template")
    assert unitname.is_instance(name) == (kind == "instance")


@pytest.mark.parametrize(
    ("text", "name", "expanded"),
    [
        ("%n %N %p %i", "web@1.service", "web@1.service web@1 web 1"),
        ("%p-%i", "web@.service", "web-"),
        ("%p%i", "plain.service", "plain"),
        ("100%% %H %", "web@1.service", "100%% %H %"),
        ("%%n", "a.service", "%a.service"),
    ],
)
def test_expand(text: str, name: str, expanded: str) -> None:
    assert unitname.expand(text, name) == expanded


def _fault(name: str) -> str | None:
    try:
        unitname.validate_unit_name(name)
    except unitname.UnitNameError as exc:
        return str(exc)
    return None


@given(st.text() | st.text(alphabet="ab@.%servict").map(lambda stem: stem + ".service"))
def test_any_text_is_taken_or_refused_with_a_reason(name: str) -> None:
    fault = _fault(name)
    if fault is None:
        assert name.isascii()
        assert "/" not in name
        assert not (unitname.is_template(name) and unitname.is_instance(name))
    else:
        assert fault
        assert fault.isprintable()
