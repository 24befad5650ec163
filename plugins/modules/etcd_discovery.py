#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_discovery
short_description: Make, check and remove tokens of etcd discovery
version_added: 1.0.0
description:
  - Speaks the discovery protocols by which the members of a new etcd cluster find each other. V(v2), with a service of
    its own, is for members up to etcd 3.6, V(v3), with any etcd as its registry, for members from 3.6 on.
  - A token is good for one cluster, and only for its bootstrap.
  - A token is a secret. Whoever knows it reads the members' addresses and can take a place among them.
author:
  - flotilla.cluster contributors (@flotilla-cluster)
extends_documentation_fragment:
  - flotilla.cluster._attributes
attributes:
  check_mode:
    support: full
    details:
      - In check mode no token is made, so neither RV(token_url) nor RV(token) is returned.
  diff_mode:
    support: none
    details:
      - A token is a secret, and nothing else changes.
  idempotent:
    support: partial
    details:
      - Without O(token), O(state=present) makes a new token with each run. Keep the one that was made, and give it as
        O(token) from then on.
options:
  state:
    description:
      - V(present) without O(token) makes a token for a cluster of O(size) members.
      - V(present) with O(token) checks that the service knows it, for O(size) members if that is given, and says who
        has registered. Nothing is changed.
      - V(absent) removes what is registered under O(token), so that nobody can use it any more.
    type: str
    choices: [present, absent]
    default: present
  protocol:
    description: The discovery protocol.
    type: str
    choices: [v2, v3]
    default: v2
  url:
    description:
      - URL of the discovery service, the part before the token.
      - Needed with O(protocol=v2) without O(token), and with a O(token) that is no URL.
    type: str
  endpoints:
    description:
      - Client URLs of the etcd that keeps tokens, for O(protocol=v3).
    type: list
    elements: str
    default: []
  size:
    description:
      - Number of members of the cluster, odd and from 1 to 9. The service itself takes any number.
      - Needed to make a token.
    type: int
  token:
    description:
      - An existing token, as its URL or as its 32 hexadecimal digits together with O(url) or O(endpoints).
    type: str
  ca_cert:
    description:
      - PEM file with the authorities that may have signed the service's certificate, on the host that runs the module.
      - Without it the host's own trusted authorities count.
    type: path
  client_cert:
    description:
      - PEM file with a client certificate, for a private service that asks for one.
    type: path
  client_key:
    description:
      - PEM file with the key of O(client_cert), not encrypted.
    type: path
  request_timeout:
    description:
      - Seconds that one request may take.
    type: float
    default: 10
  timeout:
    description:
      - Seconds that all requests of the module may take together.
    type: float
    default: 30
requirements:
  - requests (C(python3-requests) of Debian and Ubuntu; where it is missing, it is installed if root runs the module)
notes:
  - The proxy variables of the environment count, as a service may be far away.
  - Services do not let anyone delete a token as such. O(state=absent) deletes its members and its size; the empty
    directory that is left in the service's etcd does no harm.
"""

EXAMPLES = r"""
---
- name: Make a token for three members
  flotilla.cluster.etcd_discovery:
    url: https://discovery.example.org
    size: 3
  register: discovery
  no_log: true

- name: See who has registered
  flotilla.cluster.etcd_discovery:
    token: "{{ discovery.token_url }}"
    size: 3
  register: registered
  until: registered.status == 'full'
  retries: 10
  delay: 3

- name: Remove the token when the cluster is up
  flotilla.cluster.etcd_discovery:
    token: "{{ discovery.token_url }}"
    state: absent

- name: Make a token for members of etcd 3.6 and later
  flotilla.cluster.etcd_discovery:
    protocol: v3
    endpoints: [https://192.0.2.21:2379]
    ca_cert: /etc/flotilla/pki/etcd-client-ca.crt
    client_cert: /etc/flotilla/pki/etcd-client.crt
    client_key: /etc/flotilla/pki/etcd-client.key
    size: 3
  register: discovery
  no_log: true
"""

RETURN = r"""
token_url:
  description:
    - URL of the token that was made, for etcd's C(--discovery). A secret.
  returned: when a token was made with O(protocol=v2)
  type: str
  sample: https://discovery.example.org/0123456789abcdef0123456789abcdef
token:
  description:
    - The token that was made, for etcd's C(--discovery-token). A secret.
  returned: when a token was made with O(protocol=v3)
  type: str
  sample: 0123456789abcdef0123456789abcdef
size:
  description: Number of members that the token is for.
  returned: when the token exists or was made
  type: int
  sample: 3
members:
  description: Who has registered, in that order.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The member's id in hexadecimal digits.
      returned: always
      type: str
    name:
      description: The member's name.
      returned: always
      type: str
      sample: core-01
    peer_urls:
      description: The URLs at which the other members reach it.
      returned: always
      type: list
      elements: str
      sample: ["https://192.0.2.11:2380"]
status:
  description:
    - V(open) when members are missing, V(full) when all have registered, V(burnt) when no cluster can come of it any
      more, V(absent) when the token is not there.
  returned: success
  type: str
  sample: open
summary:
  description: The same in one sentence, without the token.
  returned: success
  type: str
  sample: the token has 1/3 members (core-01) and waits for 2 more
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flotilla.cluster.plugins.module_utils._discovery import run
from ansible_collections.flotilla.cluster.plugins.module_utils._http import answer


def main() -> None:
    argument_spec: dict[str, dict[str, t.Any]] = {
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "protocol": {"type": "str", "choices": ["v2", "v3"], "default": "v2"},
        "url": {"type": "str"},
        "endpoints": {"type": "list", "elements": "str", "default": []},
        "size": {"type": "int"},
        "token": {"type": "str", "no_log": True},
        "ca_cert": {"type": "path"},
        "client_cert": {"type": "path"},
        # the path is no secret, and hiding it would hide it in error messages
        "client_key": {"type": "path", "no_log": False},
        "request_timeout": {"type": "float", "default": 10.0},
        "timeout": {"type": "float", "default": 30.0},
    }
    module = AnsibleModule(
        argument_spec=argument_spec,
        required_if=[("state", "absent", ["token"])],
        required_together=[("client_cert", "client_key")],
        supports_check_mode=True,
    )
    answer(module, lambda: run(module.params, check=module.check_mode))


if __name__ == "__main__":
    main()
