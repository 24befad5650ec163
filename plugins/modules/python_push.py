#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: python_push
short_description: Bring a Python to a host that has none
version_added: 1.0.0
description:
  - Looks for a Python that modules run on. When the host has none, unpacks an archive of the controller there, which
    holds a Python that needs nothing of the host, and says how to call it.
  - Needs nothing on the host but a shell, C(tar) and C(gzip), and no network beyond Ansible's own connection.
author:
  - flotilla.cluster contributors (@flotilla-cluster)
extends_documentation_fragment:
  - flotilla.cluster._attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  archive:
    description:
      - The archive, a C(.tar.gz) on the controller, with one folder at its top in which C(bin/python3) is.
      - Without it, a host that has no Python is an error.
    type: path
  sha256:
    description: SHA-256 of the archive. It is compared before anything is sent.
    type: str
  directory:
    description: Folder on the host. Each archive has a folder of its own in it, and C(current) links to the one in use.
    type: path
    default: /opt/flotilla/python
  minimum:
    description: Lowest version that is good enough.
    type: str
    default: '3.9'
"""

EXAMPLES = r"""
---
- name: Have a Python
  flotilla.cluster.python_push:
    archive: /var/cache/flotilla/python/python.tar.gz
    sha256: "{{ python_sha256 }}"
  register: python

- name: Use it for the rest of the play
  ansible.builtin.set_fact:
    ansible_python_interpreter: "{{ python.interpreter }}"
"""

RETURN = r"""
interpreter:
  description: Path of the Python.
  returned: success
  type: str
  sample: /opt/flotilla/python/current/bin/python3
version:
  description: Its version; empty in check mode when it is not there yet.
  returned: success
  type: str
  sample: 3.11.2
pushed:
  description: Whether it is one that was brought.
  returned: success
  type: bool
"""
