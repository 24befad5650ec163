# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: docker_registry_files
short_description: The files by which docker's client knows registries
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Returns C(config.json), which holds the credentials, and each registry's authority, as files of
    M(flotilla.cluster.host_service). Credentials are for root alone and marked as sensitive.
options:
  _input:
    description: The value of O(flotilla.cluster.docker#role:main:docker_registries).
    type: list
    elements: dict
    required: true
  client_config:
    description: Further keys of C(config.json). They win.
    type: dict
    default: {}
  home:
    description: Home of the user whose credentials these are.
    type: str
    default: /root
"""

EXAMPLES = r"""
---
- name: Make a registry's authority known
  flotilla.cluster.host_service:
    name: docker.service
    files: "{{ [{'name': 'registry.example:5000', 'ca': ca_text}] | flotilla.cluster.docker_registry_files }}"
"""

RETURN = r"""
_value:
  description: Files for M(flotilla.cluster.host_service). They restart nothing, as docker reads them each time.
  type: list
  elements: dict
"""

import base64
import json
import typing as t

from ansible.module_utils.common.dict_transformations import dict_merge

# docker knows its own registry by the address of an older one
KEYS = {"docker.io": "https://index.docker.io/v1/"}


def _logins(registries: t.Sequence[t.Mapping[str, t.Any]]) -> dict[str, t.Any]:
    """What config.json says of registries with credentials."""
    auths = {}
    for registry in registries:
        if registry.get("password"):
            pair = f"{registry.get('username')}:{registry['password']}"
            auths[KEYS.get(registry["name"], registry["name"])] = {"auth": base64.b64encode(pair.encode()).decode()}
    return {"auths": auths} if auths else {}


def docker_registry_files(
    registries: t.Sequence[t.Mapping[str, t.Any]],
    client_config: t.Mapping[str, t.Any] | None = None,
    home: str = "/root",
) -> list[dict[str, t.Any]]:
    """Return what RETURN describes."""
    files: list[dict[str, t.Any]] = []
    config = dict_merge(_logins(registries), client_config or {})
    if config:
        files.append(
            {
                "path": f"{home}/.docker/config.json",
                "content": json.dumps(config, indent=2, sort_keys=True) + "\n",
                "mode": "0600",
                "sensitive": True,
                "restart": False,
            }
        )
    for registry in registries:
        if registry.get("ca"):
            path = f"/etc/docker/certs.d/{registry['name']}/ca.crt"
            files.append({"path": path, "content": str(registry["ca"]).strip() + "\n", "restart": False})
    return files


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"docker_registry_files": docker_registry_files}
