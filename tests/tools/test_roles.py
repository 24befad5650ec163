# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a role says of its variables in three places agrees: defaults, argument_specs and README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import role_docs
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

ROOT = Path(__file__).resolve().parent.parent.parent
ROLES = sorted(path.parent for path in ROOT.glob("roles/*/tasks"))
FILES = ("README.md", "defaults/main.yml", "meta/argument_specs.yml")


def load(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping, {} when there is none."""
    return (yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}


def options_of(role: Path) -> dict[str, dict[str, Any]]:
    """All options of all entry points; an option of two entry points must be described alike."""
    merged: dict[str, dict[str, Any]] = {}
    for entry_point, spec in load(role / "meta/argument_specs.yml")["argument_specs"].items():
        for name, option in spec.get("options", {}).items():
            assert merged.setdefault(name, option) == option, f"{entry_point}: {name} differs between entry points"
    return merged


def templated(value: object) -> bool:
    """Whether Ansible gives the variable its value only when it is used."""
    return isinstance(value, str) and "{{" in value


@pytest.fixture(params=ROLES, ids=lambda path: path.name)
def role(request: pytest.FixtureRequest) -> Path:
    """The folder of a role."""
    path: Path = request.param
    return path


def test_there_are_roles() -> None:
    assert ROLES


@pytest.mark.parametrize("file", FILES)
def test_role_has(role: Path, file: str) -> None:
    assert (role / file).is_file()


def test_public_variables_begin_with_the_roles_name(role: Path) -> None:
    for name in (*options_of(role), *load(role / "defaults/main.yml")):
        assert name.startswith(f"{role.name}_")


def test_private_variables_begin_with_two_underscores(role: Path) -> None:
    for path in role.glob("vars/*.yml"):
        for name in load(path):
            assert name.startswith(f"__{role.name}_"), f"{path.name}: {name}"


def test_every_default_is_an_option(role: Path) -> None:
    assert set(load(role / "defaults/main.yml")) <= set(options_of(role))


def test_only_options_with_a_default_have_one(role: Path) -> None:
    defaults = load(role / "defaults/main.yml")
    for name, option in options_of(role).items():
        assert not (option.get("required") and name in defaults), f"{name} is required, yet has a default"
        assert name in defaults or "default" not in option, f"{name} has a default in argument_specs.yml alone"


def test_defaults_have_the_same_value(role: Path) -> None:
    options = options_of(role)
    for name, value in load(role / "defaults/main.yml").items():
        if "default" in options[name] or not templated(value):
            # a template may be folded over lines in one file and not in the other
            said = options[name].get("default", "no default")
            assert normal(said) == normal(value), f"{name}: {said!r} in argument_specs.yml, {value!r} in defaults"


def normal(value: object) -> object:
    """Text without differences of white space, anything else as it is."""
    return " ".join(value.split()) if isinstance(value, str) else value


def test_defaults_are_valid(role: Path) -> None:
    """Ansible's own validator accepts the defaults, without converting one: then the types are what they say."""
    literal = {name: value for name, value in load(role / "defaults/main.yml").items() if not templated_anywhere(value)}
    options = {name: {**option, "required": False, "default": None} for name, option in options_of(role).items()}
    validated = ArgumentSpecValidator({name: options[name] for name in literal}).validate(literal)
    assert validated.error_messages == []
    for name, value in literal.items():
        if options[name].get("type") != "path":
            assert type(validated.validated_parameters[name]) is type(value), name


def templated_anywhere(value: object) -> bool:
    """Whether a value holds a template at any depth."""
    if isinstance(value, dict):
        return any(map(templated_anywhere, value.values()))
    return any(map(templated_anywhere, value)) if isinstance(value, list) else templated(value)


def test_options_are_described(role: Path) -> None:
    def undescribed(options: dict[str, dict[str, Any]], path: str) -> list[str]:
        found = []
        for name, option in options.items():
            if not option.get("description") or not option.get("type"):
                found.append(path + name)
            if option.get("type") == "list" and not option.get("elements"):
                found.append(f"{path}{name} (elements)")
            found += undescribed(option.get("options", {}), f"{path}{name}.")
        return found

    assert undescribed(options_of(role), "") == []


def test_readme_is_fresh(role: Path) -> None:
    assert role_docs.expected(role) == (role / "README.md").read_text(), "run `make docs`"
