# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: value_problems
short_description: Say what is wrong with the values of roles' variables, before the roles run
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Ansible checks the variables of a role when the role begins; then the roles before it have changed the hosts
    already. This lookup checks them for several roles at any time, and returns what is wrong as sentences.
  - First come values that the role's C(meta/argument_specs.yml) does not allow. Nothing is required here, because a
    play may leave a role out.
  - A role that has no such values is asked for its own judgement, the list of sentences C(__<role>_problems), when the
    play knows that variable.
options:
  _terms:
    description: Names of roles. Those that do not exist are passed over.
    type: list
    elements: str
    required: true
  directory:
    description: Folder that holds the roles.
    type: path
    required: true
"""

EXAMPLES = r"""
---
- name: Show what is wrong
  ansible.builtin.debug:
    msg: "{{ query('flotilla.cluster.value_problems', 'etcd', 'docker', directory=playbook_dir ~ '/../roles') }}"
"""

RETURN = r"""
_list:
  description: One sentence for each problem.
  type: list
  elements: str
  sample:
    - "value of docker_restart must be one of: auto, defer, never, got: perhaps"
"""

import contextlib
import os
import typing as t

import yaml
from ansible.errors import AnsibleError, AnsibleLookupError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.lookup import LookupBase

Template = t.Callable[[t.Any], t.Any]

# The parser in C takes a quarter of the time, but is not part of every PyYAML.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
PROSE = ("description", "short_description", "version_added", "default", "required")


def lean(options: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Options of an argument specification, reduced to what values are checked against.

    Nothing is required at the top, so that a play may leave a role out; keys of dictionaries stay required.
    """
    found: dict[str, t.Any] = {}
    for name, option in options.items():
        kept = {key: value for key, value in option.items() if key not in PROSE}
        if "options" in option:
            kept["options"] = {
                key: {**rest, "required": bool(option["options"][key].get("required"))}
                for key, rest in lean(option["options"]).items()
            }
        found[name] = kept
    return found


def _read(directory: str, role: str, *path: str) -> t.Any:
    """The content of a YAML file of a role, {} when it is not there."""
    name = os.path.join(directory, role, *path)
    try:
        with open(name, "rb") as stream:
            return yaml.load(stream, Loader=LOADER)
    except FileNotFoundError:
        return {}
    except (OSError, yaml.YAMLError) as error:
        raise AnsibleLookupError(f"value_problems cannot read {name}: {error}") from error


def read_options(directory: str, role: str) -> dict[str, t.Any]:
    """The lean options of a role's main entry point, {} when the role or its specification is not there."""
    specs = _read(directory, role, "meta", "argument_specs.yml")
    if specs == {}:
        return {}
    try:
        return lean(specs["argument_specs"]["main"].get("options") or {})
    except (KeyError, TypeError, AttributeError) as error:
        path = os.path.join(directory, role, "meta", "argument_specs.yml")
        raise AnsibleLookupError(f"value_problems cannot read {path}: {error}") from error


def read_defaults(directory: str, role: str) -> dict[str, t.Any]:
    """A role's defaults as they are written, templates and all."""
    return dict(_read(directory, role, "defaults", "main.yml") or {})


def wrong_values(
    options: t.Mapping[str, t.Any],
    variables: t.Mapping[str, t.Any],
    template: Template,
    defaults: t.Mapping[str, t.Any],
) -> list[str]:
    """Sentences about values that lean options do not allow. Defaults are right, and take time to work out."""
    values: dict[str, t.Any] = {}
    for name in options:
        if name in variables and not (name in defaults and variables[name] == defaults[name]):
            # What a value needs may be found out only by an earlier role; the role's own check will see it.
            with contextlib.suppress(AnsibleError):
                values[name] = template(variables[name])
    checked = ArgumentSpecValidator({name: options[name] for name in values}).validate(values)
    return [str(message) for message in checked.error_messages]


def judgement(role: str, variables: t.Mapping[str, t.Any], template: Template) -> list[str]:
    """What a role itself says about its values; nothing when the play does not know the role."""
    name = f"__{role}_problems"
    if name not in variables:
        return []
    try:
        return [str(problem) for problem in template(variables[name])]
    except AnsibleError as error:
        return [f"the values of role {role} cannot be judged: {error}"]


class LookupModule(LookupBase):
    """The plugin that DOCUMENTATION describes."""

    def run(self, terms: t.Sequence[str], variables: t.Any = None, **kwargs: t.Any) -> list[str]:
        """Return the sentences for the host whose variables these are."""
        plugin: t.Any = self  # ansible-core's plugins have no annotations
        plugin.set_options(var_options=variables, direct=kwargs)
        directory, template = plugin.get_option("directory"), plugin._templar.template
        found: list[str] = []
        for role in map(str, terms):
            options = read_options(directory, role)
            defaults = read_defaults(directory, role)
            found += wrong_values(options, variables, template, defaults) or judgement(role, variables, template)
        return found
