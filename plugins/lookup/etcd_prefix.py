# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: etcd_prefix
short_description: All keys of etcd that begin with a prefix
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Returns a mapping of keys to values for each prefix. All keys below one are read as they were at one moment.
  - It runs on the controller, which has to reach the members and have a client certificate.
extends_documentation_fragment:
  - flotilla.cluster._etcd.lookup
  - flotilla.cluster._etcd
options:
  _terms:
    description: Prefixes. To find what is below C(/app) and not C(/apple), give C(/app/).
    type: list
    elements: str
    required: true
  relative:
    description: Whether to leave the prefix out of the keys that are returned.
    type: bool
    default: false
seealso:
  - plugin: flotilla.cluster.etcd
    plugin_type: lookup
  - module: flotilla.cluster.etcd_kv_info
"""

EXAMPLES = r"""
---
- name: Show the settings of an application
  ansible.builtin.debug:
    msg: "{{ lookup('flotilla.cluster.etcd_prefix', '/app/', relative=true) }}"
"""

RETURN = r"""
_list:
  description: For each prefix, keys in order to values; an empty mapping when there is no such key.
  type: list
  elements: dict
"""

import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import EtcdClient
from ansible_collections.flotilla.cluster.plugins.module_utils._http import OptionError, printable
from ansible_collections.flotilla.cluster.plugins.plugin_utils._etcd_lookup import EtcdLookup, readable


class LookupModule(EtcdLookup):
    """The lookup."""

    def find(self, client: EtcdClient, terms: list[str], option: t.Callable[[str], t.Any]) -> list[t.Any]:
        """A mapping for each prefix."""
        relative, encoded = option("relative"), option("base64")
        found: list[dict[str, str]] = []
        for term in terms:
            prefix = term.encode("utf-8", "surrogateescape")
            below: dict[str, str] = {}
            for kv in client.read_prefix(prefix).kvs:
                try:
                    key = (kv.key[len(prefix) :] if relative else kv.key).decode("utf-8")
                except UnicodeDecodeError:
                    raise OptionError(
                        f"a key below {printable(term)} is not UTF-8 text ({kv.key!r}); read it with the module"
                        " flotilla.cluster.etcd_kv_info"
                    ) from None
                below[key] = readable(kv, encoded)
            found.append(below)
        return found
