# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: service_plan
short_description: Decide which units run the services described
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Makes unit files of the descriptions that role P(flotilla.cluster.service#role) takes, and compares them with the
    units that fleet has stored.
options:
  _input:
    description: Descriptions of services, as C(service_list) of role P(flotilla.cluster.service#role).
    type: list
    elements: dict
    required: true
  stored:
    description: C(units) of M(flotilla.cluster.fleet_unit_info), with C(content) and C(desired_state) at least.
    type: list
    elements: dict
    required: true
  group:
    description: Name of the deployment.
    type: str
    required: true
  proxies:
    description: Descriptions of proxies, as C(service_proxies) of role P(flotilla.cluster.service#role).
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
---
- name: Decide
  ansible.builtin.set_fact:
    plan: "{{ services | flotilla.cluster.service_plan(fleet.units, 'production') }}"
"""

RETURN = r"""
_value:
  description: The decision.
  type: dict
  contains:
    units:
      description: Units for M(flotilla.cluster.fleet_unit), those to remove last.
      type: list
      elements: dict
    back:
      description: The units that change, as they are now.
      type: list
      elements: dict
    problems:
      description: Why it cannot be done, one sentence each.
      type: list
      elements: str
"""

import typing as t


def service_plan(
    services: t.Sequence[t.Mapping[str, t.Any]],
    stored: t.Sequence[dict[str, t.Any]],
    group: str,
    proxies: t.Sequence[t.Mapping[str, t.Any]] = (),
) -> dict[str, t.Any]:
    """Return the decision that RETURN describes."""
    # Ansible imports all filters of a collection for the first of them: what only this one needs waits until it runs.
    from ansible_collections.flotilla.cluster.plugins.plugin_utils import _service

    found = _service.problems(services, group, proxies)
    if found:
        return {"units": [], "back": [], "problems": found}
    return _service.plan(services, stored, group, proxies)


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"service_plan": service_plan}
