# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is wrong with values of variables, before a role runs."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible.errors import AnsibleError, AnsibleLookupError
from ansible_collections.flotilla.cluster.plugins.lookup import value_problems as plugin

SPEC = """---
argument_specs:
  other:
    options:
      web_other: {type: int}
  main:
    options:
      web_port: {type: int, required: true, default: "{{ template }}", description: The port.}
      web_mode: {type: str, choices: [fast, safe]}
      web_sites:
        type: list
        elements: dict
        options:
          name: {type: str, required: true, description: Its name.}
          size: {type: int, default: 3}
"""


def template(value: t.Any) -> t.Any:
    """Stands in for Ansible's templates: "boom" is one that fails."""
    if value == "boom":
        raise AnsibleError("no such variable")
    return value


@pytest.fixture
def options(tmp_path: Path) -> dict[str, t.Any]:
    path = tmp_path / "web/meta/argument_specs.yml"
    path.parent.mkdir(parents=True)
    path.write_text(SPEC)
    return plugin.read_options(str(tmp_path), "web")


def test_the_main_entry_point_is_read(options: dict[str, t.Any]) -> None:
    assert set(options) == {"web_port", "web_mode", "web_sites"}
    assert options["web_port"] == {"type": "int"}
    assert options["web_sites"]["options"] == {
        "name": {"type": "str", "required": True},
        "size": {"type": "int", "required": False},
    }


def test_a_role_that_is_not_there_has_no_options(tmp_path: Path) -> None:
    assert plugin.read_options(str(tmp_path), "web") == {}


@pytest.mark.parametrize("text", ["", "[]", "argument_specs: {}", "{", "argument_specs: {main: []}"])
def test_a_specification_that_is_none_is_an_error_with_its_path(tmp_path: Path, text: str) -> None:
    path = tmp_path / "web/meta/argument_specs.yml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(AnsibleLookupError, match=str(path)):
        plugin.read_options(str(tmp_path), "web")


def test_good_values_and_missing_ones_are_fine(options: dict[str, t.Any]) -> None:
    assert plugin.wrong_values(options, {}, template, {}) == []
    values = {"web_port": "80", "web_mode": "safe", "web_sites": [{"name": "a"}], "web_unknown": []}
    assert plugin.wrong_values(options, values, template, {}) == []


def test_all_wrong_values_are_named(options: dict[str, t.Any]) -> None:
    values = {"web_port": "many", "web_mode": "slow", "web_sites": [{"size": "x"}]}
    found = plugin.wrong_values(options, values, template, {})
    assert len(found) == 4
    assert "value of web_mode must be one of: fast, safe, got: slow" in found
    for part in ("'web_port' is of type str", "missing required arguments: name", "'size' is of type str"):
        assert sum(part in sentence for sentence in found) == 1, part


def test_a_default_is_not_worked_out(options: dict[str, t.Any], tmp_path: Path) -> None:
    path = tmp_path / "web/defaults/main.yml"
    path.parent.mkdir()
    path.write_text('web_port: "{{ template }}"\nweb_mode: fast\n')
    defaults = plugin.read_defaults(str(tmp_path), "web")
    values = {"web_port": "{{ template }}", "web_mode": "slow"}
    assert plugin.wrong_values(options, values, template, defaults) == [
        "value of web_mode must be one of: fast, safe, got: slow"
    ]
    assert plugin.read_defaults(str(tmp_path), "none") == {}


def test_a_value_that_cannot_be_known_yet_is_left_alone(options: dict[str, t.Any]) -> None:
    assert plugin.wrong_values(options, {"web_port": "boom", "web_mode": "slow"}, template, {}) == [
        "value of web_mode must be one of: fast, safe, got: slow"
    ]


def test_the_role_itself_is_asked() -> None:
    assert plugin.judgement("web", {}, template) == []
    assert plugin.judgement("web", {"__web_problems": ["a", "b"]}, template) == ["a", "b"]
    assert plugin.judgement("web", {"__web_problems": "boom"}, template) == [
        "the values of role web cannot be judged: no such variable"
    ]
