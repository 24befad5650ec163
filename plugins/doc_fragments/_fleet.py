# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this doc fragment is PRIVATE to the collection. It can change in breaking ways at any time.

from __future__ import annotations


class ModuleDocFragment:
    # The argument spec that belongs to it: plugins/module_utils/_fleet.py, FLEET_ARGUMENTS.
    DOCUMENTATION = r"""
options:
  endpoint:
    description:
      - Where fleet's HTTP API answers, C(unix:///path/to/socket), C(https://host:port) or C(http://host:port).
      - The API of any one machine speaks for the whole cluster.
    type: str
    default: unix:///run/fleet.sock
  ca_cert:
    description:
      - PEM file with the authorities that may have signed the API's certificate, on the host that runs the module.
      - An empty string stands for the host's own trusted authorities.
      - Used for C(https) only.
    type: path
    default: /etc/flotilla/pki/fleet-api-ca.crt
  client_cert:
    description:
      - PEM file with the client certificate, on the host that runs the module.
      - An empty string means that none is shown; O(client_key) is not read then.
      - Used for C(https) only.
    type: path
    default: /etc/flotilla/pki/fleet-api.crt
  client_key:
    description:
      - PEM file with the key of O(client_cert), not encrypted.
    type: path
    default: /etc/flotilla/pki/fleet-api.key
  request_timeout:
    description:
      - Seconds that one request may take.
    type: float
    default: 10
requirements:
  - requests (C(python3-requests) of Debian and Ubuntu; where it is missing, it is installed if root runs the module)
"""
