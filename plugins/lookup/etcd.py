# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: etcd
short_description: Values of keys of etcd
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Returns the values of keys, in their order. All of them are read in one request, up to 128.
  - It runs on the controller, which has to reach the members and have a client certificate.
extends_documentation_fragment:
  - flotilla.cluster._etcd.lookup
  - flotilla.cluster._etcd
options:
  _terms:
    description: Keys.
    type: list
    elements: str
    required: true
  missing:
    description:
      - What to do about a key that does not exist. V(error) fails, V(none) returns C(none) in its place, V(skip) leaves
        it out.
    type: str
    choices: [error, none, skip]
    default: error
seealso:
  - plugin: flotilla.cluster.etcd_prefix
    plugin_type: lookup
  - module: flotilla.cluster.etcd_kv_info
"""

EXAMPLES = r"""
---
- name: Show where an application listens
  ansible.builtin.debug:
    msg: "{{ lookup('flotilla.cluster.etcd', '/app/listen') }}"
  vars:
    flotilla_etcd_endpoints: ["https://192.0.2.11:2379", "https://192.0.2.12:2379"]
    flotilla_etcd_ca_cert: ~/pki/etcd-client-ca.crt
    flotilla_etcd_client_cert: ~/pki/operator.crt
    flotilla_etcd_client_key: ~/pki/operator.key

- name: Show two settings, one of which may not be there
  ansible.builtin.debug:
    msg: "{{ query('flotilla.cluster.etcd', '/app/workers', '/app/extra', missing='none') }}"
"""

RETURN = r"""
_list:
  description: The value of each key.
  type: list
  elements: str
"""

import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import EtcdClient
from ansible_collections.flotilla.cluster.plugins.module_utils._http import OptionError, printable
from ansible_collections.flotilla.cluster.plugins.plugin_utils._etcd_lookup import EtcdLookup, readable


class LookupModule(EtcdLookup):
    """The lookup."""

    def find(self, client: EtcdClient, terms: list[str], option: t.Callable[[str], t.Any]) -> list[t.Any]:
        """The values; OptionError for a key that does not exist, if it has to."""
        keys = [term.encode("utf-8", "surrogateescape") for term in terms]
        stored, _revision = client.read_keys(list(dict.fromkeys(keys)))
        missing = option("missing")
        found: list[str | None] = []
        for term, key in zip(terms, keys):
            kv = stored[key]
            if kv is not None:
                found.append(readable(kv, option("base64")))
            elif missing == "error":
                raise OptionError(f"etcd has no key {printable(term)}; write it first, or give missing='none'")
            elif missing == "none":
                found.append(None)
        return found
