# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: reset_services
short_description: Turn descriptions of services into those of their absence
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Takes what roles hand to M(flotilla.cluster.host_service), so that whatever a role writes is removed with it.
options:
  _input:
    description: Descriptions of services.
    type: list
    elements: dict
    required: true
  remove:
    description:
      - Whether to remove files, links and trees.
      - Without it the units are stopped and disabled only, which comes first, as systemd has to know them for that.
    type: bool
    default: false
  also:
    description: Further paths to remove, directories with all they hold.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
---
- name: Stop the services
  flotilla.cluster.host_service:
    services: "{{ descriptions | flotilla.cluster.reset_services }}"

- name: Remove what belongs to them
  flotilla.cluster.host_service:
    services: "{{ descriptions | flotilla.cluster.reset_services(remove=true, also=['/var/lib/etcd']) }}"
"""

RETURN = r"""
_value:
  description: Descriptions for M(flotilla.cluster.host_service).
  type: list
  elements: dict
  sample:
    - name: etcd.service
      state: stopped
      enabled: false
      sockets: []
      ready_timeout: 330
      absent: [/etc/systemd/system/etcd.service]
"""

import typing as t

Service = t.Mapping[str, t.Any]
# Longer than systemd waits before it kills a unit that does not stop.
STOP_SECONDS = 330


def _written(service: Service) -> list[str]:
    found = [item["path"] for item in (*service.get("files", ()), *service.get("links", ()))]
    return [*found, *(item["root"] for item in service.get("trees", ()))]


def reset_services(
    services: t.Sequence[Service], remove: bool = False, also: t.Sequence[str] = ()
) -> list[dict[str, t.Any]]:
    """Return what RETURN describes."""
    found = []
    for number, service in enumerate(services):
        absent = [*_written(service), *(also if number == 0 else ())] if remove else []
        found.append(
            {
                "name": service["name"],
                "state": "stopped",
                "enabled": False,
                "sockets": list(service.get("sockets", ())),
                "ready_timeout": STOP_SECONDS,
                "absent": list(dict.fromkeys(absent)),
            }
        )
    return found


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"reset_services": reset_services}
