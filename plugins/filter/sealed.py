# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: sealed
short_description: Options of pki_request with the seal that says in short what is wanted
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Adds the option C(seal) to options of M(flotilla.cluster.pki_request), made of all the others.
  - Two hosts or two runs want the same if and only if they have the same seal.
options:
  _input:
    description: Options of M(flotilla.cluster.pki_request).
    type: dict
    required: true
"""

EXAMPLES = r"""
---
- name: Show the seal
  ansible.builtin.debug:
    msg: "{{ ({'certificates': [], 'authorities': {}} | flotilla.cluster.sealed).seal }}"
"""

RETURN = r"""
_value:
  description: The options, with C(seal).
  type: dict
"""

import hashlib
import json
import typing as t

from ansible.errors import AnsibleFilterError


def sealed(options: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return the options with their seal."""
    try:
        text = json.dumps(options, sort_keys=True)
    except TypeError as error:
        raise AnsibleFilterError(f"sealed: the options cannot be written as JSON: {error}") from error
    return {**options, "seal": hashlib.sha256(text.encode()).hexdigest()}


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"sealed": sealed}
