# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: etcd_release
short_description: Say which etcd release is meant, where it comes from, and whether it is a safe one
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Completes what was given with what this collection knows of etcd's releases. What is given wins.
options:
  _input:
    description: Version, "" for the newest one of etcd 3.6 whose archives this collection knows.
    type: str
    required: true
  architecture:
    description: The host's architecture, as the kernel or Debian calls it.
    type: str
    default: x86_64
  url:
    description: URL or path of the archive, "" for the one below O(mirror).
    type: str
    default: ""
  sha256:
    description: SHA-256 of the archive, "" for the one that this collection knows.
    type: str
    default: ""
  mirror:
    description: URL below which archives lie as C(v<version>/etcd-v<version>-linux-<architecture>.tar.gz).
    type: str
    default: ""
"""

EXAMPLES = r"""
---
- name: Show where the archive comes from
  ansible.builtin.debug:
    msg: "{{ ('3.6.14' | flotilla.cluster.etcd_release('aarch64', mirror='https://mirror.example/etcd')).url }}"
"""

RETURN = r"""
_value:
  description: The release.
  type: dict
  sample:
    version: 3.6.14
    url: https://mirror.example/etcd/v3.6.14/etcd-v3.6.14-linux-arm64.tar.gz
    sha256: fa1b80565ee6fc2df1ae6f57a508b221f3ecc7d591c317c581cd8281b0842b3e
    warning: ""
  contains:
    version:
      description: The version.
      type: str
    url:
      description: Where its archive is.
      type: str
    sha256:
      description: SHA-256 of the archive, "" when it is neither given nor known.
      type: str
    warning:
      description: Why the version is not a good choice, "" when it is.
      type: str
"""

import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_versions import (
    DEFAULT,
    archive_name,
    archive_sum,
    floor_warning,
)


def etcd_release(
    version: str, architecture: str = "x86_64", url: str = "", sha256: str = "", mirror: str = ""
) -> dict[str, str]:
    """Return the record that RETURN describes."""
    wanted = str(version) or DEFAULT
    place = f"{mirror.rstrip('/')}/v{wanted}/{archive_name(wanted, architecture)}" if mirror else ""
    return {
        "version": wanted,
        "url": url or place,
        # a sum that is known belongs to upstream's archive; another place may hold another build
        "sha256": sha256 or archive_sum(wanted, architecture),
        "warning": floor_warning(wanted),
    }


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"etcd_release": etcd_release}
