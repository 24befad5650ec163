# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: cloud_config_services
short_description: Turn descriptions of services into a description of a machine's first boot
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Takes services as M(flotilla.cluster.host_service) does and returns what M(flotilla.cluster.cloud_config) takes, so
    that a machine which nobody has run a play on gets the same files, users and units as one that somebody has.
  - What a running host is needed for is left out. That is checks of contents, readiness and restarts.
options:
  _input:
    description: Services, as O(flotilla.cluster.host_service#module:services) takes them.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
---
- name: Render the first boot of a machine with one service
  flotilla.cluster.cloud_config:
    config: "{{ [hello_service] | flotilla.cluster.cloud_config_services }}"
    format: ignition
"""

RETURN = r"""
_value:
  description: The description, with C(groups), C(users), C(directories), C(write_files), C(links) and C(coreos.units).
  type: dict
"""

import base64
import json
import typing as t
import zlib

from ansible.errors import AnsibleFilterError

Service = t.Mapping[str, t.Any]


def _owner(item: t.Mapping[str, t.Any]) -> str:
    return f"{item.get('owner', 'root')}:{item.get('group', 'root')}"


def _file(item: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    found: dict[str, t.Any] = {
        "path": item["path"],
        "permissions": str(item.get("mode", "0644")),
        "owner": _owner(item),
    }
    if item.get("content_b64") is not None:
        return {**found, "content": item["content_b64"], "encoding": "b64"}
    return {**found, "content": str(item.get("content", ""))}


def _user(item: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    return {
        "name": item["name"],
        "primary_group": item.get("group") or item["name"],
        "homedir": item.get("home", "/nonexistent"),
        "shell": item.get("shell", "/usr/sbin/nologin"),
        "groups": list(item.get("groups", ())),
        "system": True,
        "no_create_home": True,
    }


def _tree(item: t.Mapping[str, t.Any]) -> tuple[list[dict[str, t.Any]], dict[str, str]]:
    """Files of a versioned directory, and the link that names the version."""
    # Ansible imports all filters of a collection for the first of them: what only this one needs waits until it runs.
    from ansible_collections.flotilla.cluster.plugins.module_utils._host_plan import TreeSpec

    files = item.get("files")
    if item.get("packed"):
        files = json.loads(zlib.decompress(base64.b64decode(item["packed"])))
    if not isinstance(files, t.Mapping):
        raise AnsibleFilterError(f"cloud_config_services: the tree {item.get('root')} has no files")
    spec = TreeSpec(
        item["root"], {path: str(text).encode() for path, text in files.items()}, item.get("link", "current")
    )
    written = [
        {"path": f"{spec.root}/{spec.version}/{path}", "content": text.decode(), "permissions": "0644"}
        for path, text in spec.files.items()
    ]
    return written, {"path": spec.link_path, "target": spec.version}


def _units(service: Service) -> list[dict[str, t.Any]]:
    """The service and its sockets; their files are among the files."""
    state, enabled = service.get("state", "started"), service.get("enabled", True)
    names = [*service.get("sockets", ()), service["name"]]
    return [
        {"name": name, "enable": bool(enabled), **({"command": "start"} if state == "started" else {})}
        for name in names
    ]


def cloud_config_services(services: t.Sequence[Service]) -> dict[str, t.Any]:
    """Return what RETURN describes."""
    found: dict[str, list[t.Any]] = {key: [] for key in ("groups", "users", "directories", "write_files", "links")}
    units: list[dict[str, t.Any]] = []
    for service in services:
        found["groups"] += [item["name"] for item in service.get("groups", ())]
        found["users"] += [_user(item) for item in service.get("users", ())]
        found["directories"] += [
            {"path": item["path"], "permissions": str(item.get("mode", "0755")), "owner": _owner(item)}
            for item in service.get("directories", ())
        ]
        found["write_files"] += [_file(item) for item in service.get("files", ())]
        found["links"] += [{"path": item["path"], "target": item["target"]} for item in service.get("links", ())]
        for item in service.get("trees", ()):
            files, link = _tree(item)
            found["write_files"] += files
            found["links"].append(link)
        units += _units(service)
    found["groups"] = list(dict.fromkeys(found["groups"]))
    kept: dict[str, t.Any] = {key: value for key, value in found.items() if value}
    return {**kept, "coreos": {"units": units}} if units else kept


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"cloud_config_services": cloud_config_services}
