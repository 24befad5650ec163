# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: cloud_config_keys
short_description: Keys and certificates that were made on the controller, as files of a machine's first boot
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Reads what role C(pki) has made in a folder of the controller, and returns it as
    O(flotilla.cluster.cloud_config#module:secret_files) takes it.
options:
  _input:
    description: Certificates, each with C(name), C(authority), and C(owner), C(group) and C(mode) of its key.
    type: list
    elements: dict
    required: true
  folder:
    description: Folder on the controller.
    type: path
    required: true
  directory:
    description: Folder on the machine.
    type: path
    required: true
"""

EXAMPLES = r"""
---
- name: Render a machine with its keys
  flotilla.cluster.cloud_config:
    config: {}
    secret_files: "{{ certificates | flotilla.cluster.cloud_config_keys('/srv/pki/core-01', '/etc/flotilla/pki') }}"
    format: cloud-init
    dest: /srv/seeds/core-01
"""

RETURN = r"""
_value:
  description: Files, each with C(path), C(content), C(permissions) and C(owner). What is not there yet is left out.
  type: list
  elements: dict
"""

import os
import typing as t

from ansible.errors import AnsibleFilterError


def _read(path: str) -> str | None:
    """The text of a file, None when it is not there, as in check mode before the first run."""
    try:
        with open(path, encoding="ascii") as stream:
            return stream.read()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise AnsibleFilterError(f"cloud_config_keys: cannot read {path}: {error}") from error


def cloud_config_keys(
    certificates: t.Sequence[t.Mapping[str, t.Any]], folder: str, directory: str
) -> list[dict[str, str]]:
    """Return what RETURN describes."""
    wanted: dict[str, tuple[str, str]] = {}
    for one in certificates:
        owner = f"{one.get('owner', 'root')}:{one.get('group', 'root')}"
        wanted[f"{one['authority']}.crt"] = ("0644", "root:root")
        wanted[f"{one['name']}.crt"] = ("0644", "root:root")
        wanted[f"{one['name']}.key"] = (str(one.get("mode") or "0400"), owner)
    found = []
    for name, (mode, owner) in sorted(wanted.items()):
        text = _read(os.path.join(folder, name))
        if text is not None:
            found.append({"path": f"{directory}/{name}", "content": text, "permissions": mode, "owner": owner})
    return found


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"cloud_config_keys": cloud_config_keys}
