# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: pki_problems
short_description: What in the values of role pki cannot work
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Judges the values of role P(flotilla.cluster.pki#role) before a key is made. Nothing is asked of a host, and no
    secret is ever part of a sentence.
options:
  _input:
    description: The certificates of a host, in the form of O(flotilla.cluster.pki#role:main:pki_certificates).
    type: list
    elements: dict
    required: true
  authorities:
    description: Names of the authorities.
    type: list
    elements: str
    required: true
  days:
    description: Days that a certificate is valid.
    type: int
    required: true
  renew_days:
    description: Days before its end at which a certificate is replaced.
    type: int
    required: true
  ca_days:
    description: Days that an authority is valid.
    type: int
    required: true
  host:
    description: Name of the host, for messages.
    type: str
    required: true
  address:
    description: Address at which others reach the host. An empty one is not known.
    type: str
    required: true
  keys:
    description: Texts of the authorities' keys that exist.
    type: list
    elements: str
    required: true
  encrypted:
    description: Whether a passphrase was given for them.
    type: bool
    required: true
  directory:
    description: Where they lie, for messages.
    type: str
    required: true
"""

EXAMPLES = r"""
---
- name: Refuse a certificate that outlives its authority
  ansible.builtin.assert:
    that: >-
      pki_certificates | flotilla.cluster.pki_problems(pki_authorities, days=365, renew_days=30, ca_days=400,
      host=inventory_hostname, address=pki_address, keys=[], encrypted=false, directory=pki_directory) == []
"""

RETURN = r"""
_value:
  description: One sentence for each problem.
  type: list
  elements: str
  sample:
    - "pki_days is 400: give 1 to 365"
"""

import typing as t

LONGEST_DAYS = 365


def day_problems(days: int, renew_days: int, ca_days: int) -> t.Iterator[str]:
    """Lifetimes that exclude one another."""
    if not 1 <= days <= LONGEST_DAYS:
        yield f"pki_days is {days}: give 1 to {LONGEST_DAYS}"
    if not 0 <= renew_days < days:
        yield (
            f"pki_renew_days is {renew_days}: give 0 to {days - 1}, less than pki_days, or every run replaces every"
            " certificate"
        )
    if ca_days < 2 * days:
        yield (
            f"pki_ca_days is {ca_days}: give at least twice pki_days ({2 * days}), as no certificate outlives its"
            " authority"
        )


def authority_problems(
    certificates: t.Iterable[t.Mapping[str, t.Any]], authorities: t.Sequence[str]
) -> t.Iterator[str]:
    """Certificates that nobody would sign."""
    for name in dict.fromkeys(str(certificate["authority"]) for certificate in certificates):
        if name not in authorities:
            known = ", ".join(authorities)
            yield f"a certificate names the authority {name}, which is none of pki_authorities ({known})"


def key_problems(keys: t.Iterable[str], encrypted: bool, directory: str) -> t.Iterator[str]:
    """Keys that a passphrase does not fit."""
    locked = {"ENCRYPTED" in key for key in keys}
    if True in locked and not encrypted:
        yield f"keys in {directory} are encrypted: give their passphrase as pki_ca_passphrase"
    if False in locked and encrypted:
        yield (
            f"pki_ca_passphrase is set, but keys in {directory} are not encrypted: encrypt each with"
            ' "openssl pkey -in KEY -aes256 -out KEY.new" and rename it'
        )


def pki_problems(
    certificates: t.Sequence[t.Mapping[str, t.Any]],
    authorities: t.Sequence[str],
    *,
    days: t.Any,
    renew_days: t.Any,
    ca_days: t.Any,
    host: str,
    address: str,
    keys: t.Sequence[str],
    encrypted: bool,
    directory: str,
) -> list[str]:
    """Return what RETURN describes."""
    unknown = f"the address of {host} is not known: set pki_address or make ansible_host an IP address"
    return [
        *day_problems(int(days), int(renew_days), int(ca_days)),
        *([] if address else [unknown]),
        *authority_problems(certificates, authorities),
        *key_problems(keys, encrypted, directory),
    ]


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"pki_problems": pki_problems}
