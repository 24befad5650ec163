# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: packages_due
short_description: Packages that are missing or have another version than the one asked for
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Compares names and versions of Debian packages with those that M(flotilla.cluster.host_info) has found.
options:
  _input:
    description:
      - Versions by the names of packages. An empty one fits any.
      - V(28.5.1) stands for all versions of a package with that version of the program in it, such as
        V(5:28.5.1-1~debian.12~bookworm), which fits itself alone.
    type: dict
    required: true
  installed:
    description: Versions of the installed packages by their names.
    type: dict
    required: true
"""

EXAMPLES = r"""
---
- name: Show what is to be installed
  ansible.builtin.debug:
    msg: "{{ {'docker-ce': '28.5.1', 'containerd.io': ''} | flotilla.cluster.packages_due(host.packages) }}"
"""

RETURN = r"""
_value:
  description: Names of the packages, in the order of the input.
  type: list
  elements: str
"""

import re
import typing as t


def _fits(version: str, wanted: str) -> bool:
    return bool(version) and (
        not wanted or version == wanted or re.match(rf"(\d+:)?{re.escape(wanted)}($|[-~+])", version) is not None
    )


def packages_due(wanted: t.Mapping[str, t.Any], installed: t.Mapping[str, str]) -> list[str]:
    """Return what RETURN describes."""
    return [name for name, version in wanted.items() if not _fits(installed.get(name, ""), str(version or ""))]


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"packages_due": packages_due}
