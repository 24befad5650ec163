#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: pki_request
short_description: Keep the keys and certificates of a host, and ask for those that are missing
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Does the host's side of a private PKI in one call, for any number of certificates.
    It makes missing private keys on the host, checks every installed certificate against its
    description, and returns signing requests only for those that need a new certificate.
  - Something else signs the requests, for example M(community.crypto.x509_certificate_pipe) on the
    controller. A second call with O(signed) installs what was signed.
  - A private key is EC P-256, never leaves the host and is never part of the output. A usable key
    (EC of at least 256 bits, RSA of at least 2048 bits) is kept when its certificate is renewed, so
    that a key and its certificate fit one another at every moment. Remove the key file to get a
    new key.
  - Every file is written to a temporary name and renamed.
options:
  directory:
    description:
      - Where keys, certificates and authorities lie. It is made with mode 0755, owned by root.
    type: path
    default: /etc/flotilla/pki
  authorities:
    description:
      - The authorities that the host shall trust, name to certificates in PEM form.
        Each becomes C(<name>.crt) in O(directory).
      - The first certificate of a text signs; further ones are trusted too.
      - On the host several certificates lie in an order of their own, so that the file is the same whoever signs.
      - A text may be empty for an authority that is still to be made. What it shall sign is asked for then, and nothing
        is installed.
    type: dict
    default: {}
  certificates:
    description: The certificates that the host shall have.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the pair. Its files are C(<name>.key) and C(<name>.crt).
        type: str
        required: true
      authority:
        description: Name of the authority that signs it, one of O(authorities).
        type: str
        required: true
      common_name:
        description: Common name of the subject, at most 64 characters; "" for none.
        type: str
        required: true
      organizations:
        description: Organizations of the subject, such as V(fleet:operator) for a client of the fleet API.
        type: list
        elements: str
        default: []
      sans:
        description: IP addresses and DNS names that the certificate is for, without a prefix.
        type: list
        elements: str
        default: []
      usages:
        description: Extended key usages.
        type: list
        elements: str
        choices: [clientAuth, serverAuth]
        default: [clientAuth]
      owner:
        description: User that owns the private key. It must exist or be one of O(users).
        type: str
        default: root
      group:
        description: Group of the private key. It must exist or be the group of one of O(users).
        type: str
        default: root
      mode:
        description: Mode of the private key, as an octal number.
        type: str
        default: "0400"
  signed:
    description:
      - Signed certificates to install, name to PEM text.
      - Each is made from a request that this module returned.
      - One that does not fit its description, its key or its authority is refused.
    type: dict
    default: {}
  users:
    description:
      - System users to make when they are missing, so that a key can belong to a service that
        is installed later. An existing user is left as it is.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the user.
        type: str
        required: true
      group:
        description: Primary group, made when missing. The default is the name of the user.
        type: str
      home:
        description: Home directory. It is not created.
        type: path
        default: /nonexistent
      shell:
        description: Login shell.
        type: path
        default: /usr/sbin/nologin
  renew_days:
    description: A certificate with fewer days left than this is requested anew.
    type: int
    default: 30
  reissue_before:
    description:
      - A certificate issued before this time is requested anew, whenever it ends. As C(2026-11-23T18:00:00Z), in UTC.
      - A certificate counts as issued one day after it becomes valid, because M(flotilla.cluster.pki_authority) dates
        them back by that.
    type: str
    default: ""
  replace_authorities:
    description:
      - Whether an installed authority may be replaced by one that has no key in common with it.
      - V(false) protects a running cluster from a controller that lost its authorities, or has
        those of another cluster.
    type: bool
    default: false
  seal:
    description:
      - A text that stands for all that is wanted, a hash for example. When everything is as described, it is noted in
        C(.seal) of O(directory) together with what the files look like.
      - M(flotilla.cluster.host_info) tells whether that still holds, in less time than this module takes to look.
    type: str
    default: ""
requirements:
  - cryptography >= 3.4 on the host (C(python3-cryptography) of the distribution)
extends_documentation_fragment:
  - flotilla.cluster._attributes
attributes:
  check_mode:
    support: full
    details:
      - Without C(cryptography) on the host check mode predicts that everything would be made.
  diff_mode:
    support: full
    details:
      - No key and no request is part of it.
  idempotent:
    support: full
seealso:
  - module: community.crypto.x509_certificate_pipe
"""

EXAMPLES = r"""
---
- name: Ask for what is missing
  flotilla.cluster.pki_request:
    authorities:
      etcd-client-ca: "{{ lookup('ansible.builtin.file', 'pki/etcd-client-ca.crt') }}"
    certificates:
      - name: etcd-client
        authority: etcd-client-ca
        common_name: "machine-{{ inventory_hostname }}"
        sans: ["{{ inventory_hostname }}"]
  register: pki

- name: Sign on the controller
  community.crypto.x509_certificate_pipe:
    csr_content: "{{ item.csr }}"
    provider: ownca
    ownca_path: "pki/{{ item.authority }}.crt"
    ownca_privatekey_path: "pki/{{ item.authority }}.key"
  loop: "{{ pki.requests }}"
  loop_control:
    label: "{{ item.name }}"
  delegate_to: localhost
  register: signed
"""

RETURN = r"""
requests:
  description: Signing requests for the certificates that are missing or must be replaced.
  returned: always
  type: list
  elements: dict
  sample:
    - name: etcd-client
      authority: etcd-client-ca
      csr: "-----BEGIN CERTIFICATE REQUEST-----..."
      reasons: [it ends on 2026-12-01, in less than 30 days]
  contains:
    name:
      description: Name of the certificate.
      type: str
    authority:
      description: Name of the authority that shall sign it.
      type: str
    csr:
      description: The request in PEM form; empty in check mode when its key is still to be made.
      type: str
    reasons:
      description: Why a new certificate is needed.
      type: list
      elements: str
certificates:
  description: The certificates that are installed and in order, by name.
  returned: always
  type: dict
  sample:
    etcd-client:
      path: /etc/flotilla/pki/etcd-client.crt
      not_after: "2027-11-22T17:00:00Z"
      fingerprint: 5f1c...
files_changed:
  description: Files that were written, removed, or got another owner or mode.
  returned: always
  type: list
  elements: str
  sample: [/etc/flotilla/pki/etcd-client.crt]
"""

import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.flotilla.cluster.plugins.module_utils import _pki, _pki_host


def main() -> None:
    """Read the parameters, run, and turn a PkiError into one sentence."""
    module = AnsibleModule(
        argument_spec=_pki_host.ARGUMENTS,
        supports_check_mode=True,
    )
    if not _pki.HAS_CRYPTOGRAPHY:
        if not module.check_mode:
            module.fail_json(msg=missing_required_lib("cryptography"))
        module.warn("cryptography is not installed on this host yet: all is predicted as still to be made")
        module.exit_json(changed=True, requests=[], certificates={}, files_changed=[])
    try:
        result, diff = _pki_host.keep(
            module.params, module.check_mode, lambda command: module.run_command(command, check_rc=True)
        )
    except _pki.PkiError as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(
            msg=f"cannot work in {module.params['directory']}: {exc}",
            exception=traceback.format_exc(),
        )
    module.exit_json(**result, **({"diff": diff} if module._diff else {}))


if __name__ == "__main__":
    main()
