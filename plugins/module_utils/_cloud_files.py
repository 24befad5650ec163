# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""A directory of documents: what has to be written and removed there, and doing so."""

from __future__ import annotations

import os
import re
import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils import _host_system as system
from ansible_collections.flotilla.cluster.plugins.module_utils._host_plan import difference

HIDDEN = "(not shown: it holds secrets)\n"


class Plan(t.NamedTuple):
    """Relative paths to write with their contents, to give the right mode, to remove; and what Ansible shows of it."""

    write: dict[str, str]
    fix: list[str]
    remove: list[str]
    differences: list[dict[str, str]]

    @property
    def paths(self) -> list[str]:
        return sorted({*self.write, *self.fix, *self.remove})


class Writer:
    """One directory.

    :param mode: of files, in octal
    :param hide: never show contents
    :raises ValueError: for a mode that is none
    """

    def __init__(self, directory: str, mode: str, hide: bool) -> None:
        if not re.fullmatch(r"0?[0-7]{3}", mode):
            raise ValueError(f"mode is {mode!r}; give three or four octal digits in quotes, such as '0600'")
        self.directory, self.mode, self.hide = directory, int(mode, 8), hide

    @property
    def directory_mode(self) -> int:
        """The mode of files, with the right to enter for whoever may read."""
        return self.mode | (self.mode & 0o444) >> 2

    def plan(self, files: t.Mapping[str, str], owned: t.Iterable[str]) -> Plan:
        """What to do so that the directory has these files, and no others of those that are ours.

        :raises HostError: when something else is in the way
        """
        write: dict[str, str] = {}
        fix, differences = [], []
        for name, text in files.items():
            found = system.look_at_path(os.path.join(self.directory, name), True)
            if found.kind not in ("file", "absent"):
                raise system.HostError(f"{name} is a {found.kind} there; move it away")
            before = found.content
            if before != text.encode("utf-8", "surrogatepass"):
                write[name] = text
                differences.append(self._shown(name, before, text))
            elif found.mode != self.mode:
                fix.append(name)
                differences.append(difference(name, f"mode: {found.mode:04o}\n", f"mode: {self.mode:04o}\n"))
        remove = [
            name
            for name in owned
            if name not in files and system.look_at_path(os.path.join(self.directory, name), False).kind == "file"
        ]
        differences += [difference(name, "present\n", "absent\n") for name in remove]
        return Plan(write, fix, remove, differences)

    def _shown(self, name: str, before: bytes | None, after: str) -> dict[str, str]:
        old = "" if before is None else before.decode("utf-8", "replace")
        return difference(name, HIDDEN if self.hide and old else old, HIDDEN if self.hide else after)

    def apply(self, plan: Plan) -> None:
        """Carry out a plan; each file is replaced whole.

        :raises HostError: when that fails
        """
        try:
            for name, text in plan.write.items():
                path = os.path.join(self.directory, name)
                if not os.path.isdir(os.path.dirname(path)):
                    os.makedirs(os.path.dirname(path), self.directory_mode)
                system.write_atomically(path, text.encode("utf-8", "surrogatepass"), self.mode)
            for name in plan.fix:
                os.chmod(os.path.join(self.directory, name), self.mode)
            for name in plan.remove:
                os.unlink(os.path.join(self.directory, name))
        except OSError as error:
            raise system.HostError(f"{error.filename}: {error.strerror}") from error
