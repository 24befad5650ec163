# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: rendered
short_description: Texts of a role's files and templates
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Returns the text of each template with the variables of the host, like P(ansible.builtin.template#lookup), but also
    outside of the role that has the template, so that one task can carry out what several roles describe.
  - It takes a fraction of that one's time, because it neither copies all variables nor looks at the template's owner.
    In return templates cannot include others, and of the variables about the template there is only
    C(ansible_managed).
options:
  _terms:
    description: File names below the role's C(templates), or C(files) with O(raw).
    type: list
    elements: str
    required: true
  role:
    description: A role of this collection.
    type: str
    required: true
  raw:
    description: Whether to return files as they are.
    type: bool
    default: false
"""

EXAMPLES = r"""
---
- name: Show a unit
  ansible.builtin.debug:
    msg: "{{ lookup('flotilla.cluster.rendered', 'fleet.service.j2', role='fleet') }}"
"""

RETURN = r"""
_list:
  description: The text made of each template.
  type: list
  elements: str
"""

import os
import typing as t

import ansible.template
from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

# What action template gives its files, too; a variable of that name wins.
HEAD = "{% set ansible_managed = ansible_managed | default('Ansible managed') %}"
ROLES = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "roles")

# The templar that was last at work.
_kept: list[t.Any] = []


def kept(templar: t.Any) -> t.Any:
    """A templar for the same variables. A new one looks for each filter and test again, 6 ms for a short file."""
    if not _kept or _kept[0].available_variables is not templar.available_variables:
        _kept[:] = [templar]
    return _kept[0]


def render(templar: t.Any, text: str) -> str:
    """Render a text that comes from a file of the controller, as far as to a string and no further."""
    trust = getattr(ansible.template, "trust_as_template", None)
    if trust is None:
        # ansible-core 2.18 trusts all texts, and makes lists and numbers of those that look like one
        return str(templar.template(HEAD + text, escape_backslashes=False, convert_data=False))
    return str(templar.template(trust(HEAD + text), escape_backslashes=False))


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[str], variables: t.Any = None, **kwargs: t.Any) -> list[str]:
        """Return one text a template; AnsibleLookupError when one cannot be read."""
        plugin: t.Any = self  # ansible-core's plugins have no annotations
        plugin.set_options(var_options=variables, direct=kwargs)
        raw = plugin.get_option("raw")
        folder = os.path.join(ROLES, plugin.get_option("role"), "files" if raw else "templates")
        result = []
        for term in terms:
            path = os.path.join(folder, term)
            try:
                with open(path, encoding="utf-8", newline="") as handle:
                    text = handle.read()
            except (OSError, UnicodeDecodeError) as exc:
                raise AnsibleLookupError(f"rendered: cannot read {path}: {exc}") from exc
            result.append(text if raw else render(kept(plugin._templar), text))
        return result
