# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: kept_passwords
short_description: Passwords that the controller keeps, made when they are first asked for
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Returns one dictionary with a password for each name. Each is kept in a file of that name (0600), as
    P(ansible.builtin.password#lookup) does it.
  - Many hosts of a play may ask for the same password at the same time without waiting for one another, and a play that
    was killed leaves no lock behind. The first file that is complete counts for all.
options:
  _terms:
    description: Names, which are the names of files.
    type: list
    elements: str
    required: true
  directory:
    description: Folder of the files. It is made (0700) when it is missing.
    type: path
    required: true
  keep:
    description: Whether passwords that are missing are kept. V(false) returns ones that are forgotten, for check mode.
    type: bool
    default: true
"""

EXAMPLES = r"""
---
- name: Look at two passwords
  ansible.builtin.debug:
    msg: "{{ lookup('flotilla.cluster.kept_passwords', 'root', 'app', directory='/srv/secrets') }}"
"""

RETURN = r"""
_list:
  description: One dictionary, name to password.
  type: list
  elements: dict
"""

import os
import secrets
import string
import tempfile
import typing as t
from pathlib import Path

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

# 40 of 62 characters are 238 bits, which nobody guesses, whatever the hash
LENGTH = 40
CHARACTERS = string.ascii_letters + string.digits


def kept(path: Path, keep: bool) -> str:
    """The password in the file, which is made when it is missing. Raises OSError, and ValueError for an empty one."""
    try:
        password = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        password = "".join(secrets.choice(CHARACTERS) for index in range(LENGTH))
        return _made(path, password) if keep else password
    if not password:
        raise ValueError(f"{path} is empty: write the password into it that etcd knows, or remove it for a new one")
    return password


def _made(path: Path, password: str) -> str:
    """Keeps the password, unless somebody else was faster, whose one counts then."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # complete before it has its name
    number, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(password + "\n")
        try:
            os.link(draft, path)
        except FileExistsError:
            return kept(path, True)
    finally:
        os.unlink(draft)
    return password


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[str], variables: t.Any = None, **kwargs: t.Any) -> list[dict[str, str]]:
        """Return what RETURN describes."""
        plugin: t.Any = self  # ansible-core's plugins have no annotations
        plugin.set_options(var_options=variables, direct=kwargs)
        folder, keep = Path(plugin.get_option("directory")), plugin.get_option("keep")
        found = {}
        for name in terms:
            if not name or name.startswith(".") or "/" in name:
                raise AnsibleLookupError(f"kept_passwords: {name!r} is no name of a file; give one without slashes")
            try:
                found[name] = kept(folder / name, keep)
            except (OSError, ValueError) as error:
                reason = f"{folder / name}: {error.strerror}" if isinstance(error, OSError) else str(error)
                raise AnsibleLookupError(f"kept_passwords: {reason}") from error
        return [found]
