# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: file_texts
short_description: Texts of files that may be missing
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Returns what files on the controller hold, by name, as they are then. A file that is not there is no error.
options:
  _terms:
    description: Names of the files, without their suffix.
    type: list
    elements: str
    required: true
  directory:
    description: Folder that holds them.
    type: path
    required: true
  suffix:
    description: What the names end with.
    type: str
    default: ""
"""

EXAMPLES = r"""
---
- name: Show which authorities there are
  ansible.builtin.debug:
    msg: "{{ lookup('flotilla.cluster.file_texts', 'etcd-peer-ca', directory=pki_directory, suffix='.crt') }}"
"""

RETURN = r"""
_list:
  description: One dictionary, from each name to the text of its file. The text of a file that is not there is empty.
  type: list
  elements: dict
"""

import os
import typing as t

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase


def read(path: str) -> str:
    """Text of a file, "" when there is none; AnsibleLookupError when it cannot be read."""
    try:
        with open(path, encoding="utf-8") as handle:
            return handle.read()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as exc:
        raise AnsibleLookupError(f"file_texts: cannot read {path}: {exc}") from exc


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[str], variables: t.Any = None, **kwargs: t.Any) -> list[dict[str, str]]:
        """Return one dictionary, name to text."""
        plugin: t.Any = self  # ansible-core's plugins have no annotations
        plugin.set_options(var_options=variables, direct=kwargs)
        directory, suffix = plugin.get_option("directory"), plugin.get_option("suffix")
        return [{str(term): read(os.path.join(directory, f"{term}{suffix}")) for term in terms}]
