# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The action of M(flotilla.cluster.python_push); its options are documented there."""

from __future__ import annotations

import re
import shlex
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.flotilla.cluster.plugins.module_utils._digest import sha256_of

ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "archive": {"type": "path"},
    "sha256": {"type": "str"},
    "directory": {"type": "path", "default": "/opt/flotilla/python"},
    "minimum": {"type": "str", "default": "3.9"},
}
#: Where systems and their extensions have one; the one in the directory comes first.
PLACES = ("/usr/bin/python3", "/usr/local/bin/python3", "/usr/libexec/platform-python", "/opt/bin/python3")


class Found(t.NamedTuple):
    """What the host has. C(marks) are the SHA-256 of archives that were unpacked whole, the one in use first."""

    pythons: dict[str, str]
    mark: str
    tools: bool


def probe(directory: str) -> str:
    """A script for sh that says what the host has, a line each. It runs where there is nothing else."""
    ours = f"{directory}/current"
    places = " ".join(shlex.quote(place) for place in (f"{ours}/bin/python3", *PLACES))
    version = shlex.quote('import sys, json, ssl, ctypes; print("%d.%d.%d" % sys.version_info[:3])')
    return (
        f"for one in {places}; do"
        f' if said=$("$one" -c {version} 2>/dev/null); then echo "python $one $said"; fi; done;'
        f' if read -r mark <{shlex.quote(ours)}/.sha256; then echo "mark $mark"; fi 2>/dev/null;'
        " if command -v tar >/dev/null && command -v gzip >/dev/null; then echo tools; fi"
    )


def read_probe(text: str) -> Found:
    """What a probe said; lines that are not its own, such as a banner's, are passed over."""
    pythons: dict[str, str] = {}
    mark, tools = "", False
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "python" and re.fullmatch(r"\d+\.\d+\.\d+", words[2]):
            pythons[words[1]] = words[2]
        elif len(words) == 2 and words[0] == "mark":
            mark = words[1]
        elif words == ["tools"]:
            tools = True
    return Found(pythons, mark, tools)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(word) for word in version.split("."))


def choose(found: Found, directory: str, minimum: str, sha256: str) -> str:
    """The Python to use, "" when one has to be brought.

    The system's own comes first. One that was brought stays in use while it is the one wanted, or none is given.
    """
    ours = f"{directory}/current/bin/python3"
    good = [path for path, version in found.pythons.items() if _numbers(version) >= _numbers(minimum)]
    for path in good:
        if path != ours:
            return path
    return ours if ours in good and (not sha256 or found.mark == sha256) else ""


def unpack(directory: str, archive: str, sha256: str) -> str:
    """A script for sh that unpacks an archive beside its place and switches to it; what was there before goes."""
    name, quoted = sha256[:12], shlex.quote(directory)
    return (
        f"set -e; umask 022; mkdir -p {quoted}; cd {quoted}; rm -rf {name}.part; mkdir {name}.part;"
        f" gzip -dc {shlex.quote(archive)} | tar -xf - -C {name}.part --strip-components=1;"
        f" {name}.part/bin/python3 -c 'import ssl, json, ctypes';"
        f" echo {sha256} >{name}.part/.sha256; rm -rf {name}; mv {name}.part {name};"
        f" rm -f current.part; ln -s {name} current.part;"
        # not every mv can replace a link to a folder
        " mv -fT current.part current 2>/dev/null || { rm -f current; mv current.part current; };"
        f' for one in */; do [ "$one" = {name}/ ] || [ "$one" = current/ ] || rm -rf "$one"; done;'
        f" current/bin/python3 -c 'import sys; print(\"python current %d.%d.%d\" % sys.version_info[:3])'"
    )


def digest(path: str) -> str:
    """SHA-256 of a file; AnsibleActionFail when it cannot be read."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise AnsibleActionFail(
            f"archive {path} cannot be read: {error.strerror}; give the path of an archive on the controller"
        ) from error


class ActionModule(ActionBase):
    """The action."""

    TRANSFERS_FILES = True
    _supports_check_mode = True

    def run(self, tmp: t.Any = None, task_vars: t.Any = None) -> dict[str, t.Any]:
        """Do it; AnsibleActionFail with one sentence when it cannot be done."""
        action: t.Any = self  # ansible-core's plugins have no annotations
        super().run(tmp, task_vars)
        _result, params = action.validate_argument_spec(ARGUMENTS)
        directory, sha256 = params["directory"], (params["sha256"] or "").lower()
        if not re.fullmatch(r"\d+(\.\d+){1,2}", params["minimum"]):
            raise AnsibleActionFail(f"minimum is {params['minimum']!r}; give a version such as 3.9")
        if not re.fullmatch(r"/[^/].*", directory) or directory.startswith("/usr/"):
            raise AnsibleActionFail(f"directory is {directory!r}; give an absolute path that is not below /usr")
        found = read_probe(self._sh(probe(directory)))
        chosen = choose(found, directory, params["minimum"], sha256)
        ours = f"{directory}/current/bin/python3"
        if chosen:
            return {
                "changed": False, "interpreter": chosen, "version": found.pythons[chosen], "pushed": chosen == ours
            }  # fmt: skip
        self._check(params, found, sha256)
        if action._task.check_mode:
            return {"changed": True, "interpreter": ours, "version": "", "pushed": True}
        remote = action._connection._shell.join_path(action._make_tmp_path(), "python.tar.gz")
        try:
            action._transfer_file(params["archive"], remote)
            said = read_probe(self._sh(unpack(directory, remote, sha256), f"unpacking {params['archive']}"))
        finally:
            action._remove_tmp_path(action._connection._shell.tmpdir)
        return {"changed": True, "interpreter": ours, "version": said.pythons.get("current", ""), "pushed": True}

    def _check(self, params: t.Mapping[str, t.Any], found: Found, sha256: str) -> None:
        has = ", ".join(f"{path} {version}" for path, version in found.pythons.items()) or "none"
        if not params["archive"]:
            raise AnsibleActionFail(
                f"the host has no Python {params['minimum']} or newer (it has {has}): install one, or give an archive"
                " with one"
            )
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise AnsibleActionFail(f"sha256 is {sha256!r}; give the SHA-256 of {params['archive']}")
        seen = digest(params["archive"])
        if seen != sha256:
            raise AnsibleActionFail(
                f"archive {params['archive']} has the SHA-256 {seen} and sha256 is {sha256}: nothing was sent; correct"
                " the one that is wrong"
            )
        if not found.tools:
            raise AnsibleActionFail(
                "the host has no tar or no gzip, and the archive is unpacked with both: install them"
            )

    def _sh(self, script: str, what: str = "looking for a Python") -> str:
        """What a script says; AnsibleActionFail when it ends with an error."""
        action: t.Any = self
        done = action._low_level_execute_command(f"sh -c {shlex.quote(script)}", executable="/bin/sh")
        if done.get("rc"):
            said = str(done.get("stderr") or done.get("stdout") or "").strip()[-400:]
            raise AnsibleActionFail(f"{what} failed on the host with exit code {done['rc']}: {said}")
        return str(done.get("stdout", ""))
