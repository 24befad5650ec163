#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: pki_authority
short_description: Make authorities on the controller, and sign requests with them
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Makes the authorities that are missing, each a key, encrypted when O(passphrase) is given, and a
    certificate signed with it, and signs any number of requests, all in one call.
  - This action runs on the controller, for whatever host the task is. The work is done by the modules
    M(community.crypto.openssl_privatekey), M(community.crypto.openssl_csr_pipe),
    M(community.crypto.x509_certificate) and M(community.crypto.x509_certificate_pipe), which it
    runs in one process instead of one task each.
options:
  directory:
    description:
      - Folder of the authorities. C(<name>.key) has mode 0600, C(<name>.crt) 0644.
      - It is made with mode 0700 when it is missing.
    type: path
    required: true
  authorities:
    description:
      - Names of the authorities to have. A key without a certificate gets one.
      - What is there is never replaced.
    type: list
    elements: str
    default: []
  cluster:
    description: Name of the cluster, part of the authorities' names in their certificates.
    type: str
    default: flotilla
  passphrase:
    description: Passphrase of the authorities' keys. An empty one leaves them unencrypted.
    type: str
    default: ""
  authority_days:
    description: Days that a new authority is valid.
    type: int
    default: 3650
  days:
    description:
      - Days that a signed certificate is valid, counted from one day before it is signed, as a host's
        clock may be behind.
      - It ends with its authority at the latest.
    type: int
    default: 365
  requests:
    description: Requests to sign, as M(flotilla.cluster.pki_request) returns them, by any name.
    type: dict
    default: {}
  rotation:
    description:
      - Takes O(authorities) one step further in their rotation, instead of all else. A step that was made is not made
        again.
      - V(trust) makes a new authority beside the old one, which goes on signing; hosts are to trust both.
      - V(switch) lets the new one sign; hosts are to get new certificates.
      - V(drop) leaves out the old one, which no certificate may need any more.
    type: str
    choices: [trust, switch, drop]
  reissue_before:
    description: An authority made at this time or later is not rotated. As C(2026-11-23T18:00:00Z), in UTC.
    type: str
    default: ""
requirements:
  - cryptography >= 3.4 on the controller
  - the collection community.crypto
extends_documentation_fragment:
  - flotilla.cluster._attributes
attributes:
  check_mode:
    support: full
    details:
      - In check mode nothing is signed.
  diff_mode:
    support: none
  idempotent:
    support: partial
    details:
      - Every request that is given is signed.
seealso:
  - module: flotilla.cluster.pki_request
"""

EXAMPLES = r"""
---
- name: Make an authority
  flotilla.cluster.pki_authority:
    directory: "{{ inventory_dir }}/.pki"
    authorities: [etcd-client-ca]
  run_once: true
"""

RETURN = r"""
made:
  description: Names of the authorities that were made.
  returned: always
  type: list
  elements: str
  sample: [etcd-client-ca]
rotated:
  description: Names of the authorities that went a step further.
  returned: with O(rotation)
  type: list
  elements: str
  sample: [etcd-client-ca]
signed:
  description: For each of O(requests) the certificates by name, in PEM form.
  returned: always
  type: dict
  sample:
    core-01:
      etcd-client: "-----BEGIN CERTIFICATE-----..."
"""
