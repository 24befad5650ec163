# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this doc fragment is PRIVATE to the collection. It can change in breaking ways at any time.

from __future__ import annotations


class ModuleDocFragment:
    # The argument spec that belongs to it: plugins/module_utils/_etcd.py, ETCD_ARGUMENTS.
    DOCUMENTATION = r"""
options:
  endpoints:
    description:
      - Client URLs of the cluster's members, each C(https://host:port) or C(http://host:port).
      - They are tried in turn. One that cannot be reached, or has no leader, is passed over for the next.
      - The members must serve the JSON gateway at C(/v3/). It is on by default since etcd 3.4.
    type: list
    elements: str
    default:
      - https://127.0.0.1:2379
  ca_cert:
    description:
      - PEM file with the authorities that may have signed the members' certificates, on the host that runs the module.
      - An empty string stands for the host's own trusted authorities.
      - Not used for C(http) endpoints.
    type: path
    default: /etc/flotilla/pki/etcd-client-ca.crt
  client_cert:
    description:
      - PEM file with the client certificate, on the host that runs the module.
      - An empty string means that none is shown to the members; O(client_key) is not read then.
      - Not used for C(http) endpoints.
    type: path
    default: /etc/flotilla/pki/etcd-client.crt
  client_key:
    description:
      - PEM file with the key of O(client_cert), not encrypted.
    type: path
    default: /etc/flotilla/pki/etcd-client.key
  username:
    description:
      - User of etcd's own authentication. One token is fetched for the whole run of the module.
      - A cluster whose authentication is off accepts the request all the same.
      - etcd's gateway does not take the user's name from a client certificate. With authentication on it refuses every
        O(client_cert) that has a common name.
    type: str
  password:
    description:
      - Password of O(username).
    type: str
  request_timeout:
    description:
      - Seconds that one try at one endpoint may take.
    type: float
    default: 5
  timeout:
    description:
      - Seconds that all requests of the module may take together, tries at other endpoints included.
    type: float
    default: 30
requirements:
  - requests (C(python3-requests) of Debian and Ubuntu; where it is missing, it is installed if root runs the module)
"""

    # What all lookups have, and where they, which run on the controller, find the options above beside their arguments.
    # The environment is etcdctl's.
    LOOKUP = r"""
options:
  base64:
    description: Whether to return the values in base64. Those that are not UTF-8 text cannot be read otherwise.
    type: bool
    default: false
  endpoints:
    env:
      - name: ETCDCTL_ENDPOINTS
    vars:
      - name: flotilla_etcd_endpoints
  ca_cert:
    # as a path an empty one would become the working directory
    type: str
    env:
      - name: ETCDCTL_CACERT
    vars:
      - name: flotilla_etcd_ca_cert
  client_cert:
    # as a path an empty one would become the working directory
    type: str
    env:
      - name: ETCDCTL_CERT
    vars:
      - name: flotilla_etcd_client_cert
  client_key:
    # as a path an empty one would become the working directory
    type: str
    env:
      - name: ETCDCTL_KEY
    vars:
      - name: flotilla_etcd_client_key
  username:
    env:
      - name: ETCDCTL_USER
    vars:
      - name: flotilla_etcd_username
  password:
    env:
      - name: ETCDCTL_PASSWORD
    vars:
      - name: flotilla_etcd_password
  request_timeout:
    vars:
      - name: flotilla_etcd_request_timeout
  timeout:
    vars:
      - name: flotilla_etcd_timeout
"""
