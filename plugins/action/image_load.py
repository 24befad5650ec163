# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The action of M(flotilla.cluster.image_load): reads the archive here, and sends it to hosts that lack its images."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.flotilla.cluster.plugins.module_utils import _images
from ansible_collections.flotilla.cluster.plugins.module_utils._digest import sha256_of

MODULE = "flotilla.cluster.image_load"
ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "src": {"type": "path", "required": True},
    "sha256": {"type": "str"},
    "remote_src": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):
    """One call of the module where all is there, two and the archive where it is not."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Return what RETURN of the module describes."""
        result = super().run(tmp, task_vars)
        action: t.Any = self  # ansible-core's plugins have no annotations
        _validation, params = action.validate_argument_spec(argument_spec=ARGUMENTS)
        if params["remote_src"]:
            return {**result, **action._execute_module(module_name=MODULE, task_vars=task_vars)}
        try:
            path = action._find_needle("files", params["src"])
            archive = _images.read_archive(path)
            found = sha256_of(path)
        except (AnsibleError, OSError, _images.ArchiveError) as error:
            raise AnsibleActionFail(f"image_load: {error}") from error
        if params["sha256"] and params["sha256"].lower() != found:
            raise AnsibleActionFail(
                f"image_load: {path} has the SHA-256 {found}, not {params['sha256']}: nothing was sent to any host"
            )
        wanted = [{**image._asdict(), "tags": list(image.tags)} for image in archive.images]
        arguments = {"src": path, "sha256": found, "images": wanted}
        # The first call only looks, whatever the mode of the play.
        looked = self._call(arguments, task_vars, check=True)
        if self._task.check_mode or looked.get("failed") or not looked.get("changed"):
            return {**result, **looked}
        remote = path
        if looked["loaded"]:
            folder = action._make_tmp_path()
            remote = action._connection._shell.join_path(folder, "archive")
            action._transfer_file(path, remote)
        try:
            return {**result, **self._call({**arguments, "src": remote}, task_vars, check=False)}
        finally:
            action._remove_tmp_path(action._connection._shell.tmpdir)

    def _call(self, arguments: dict[str, t.Any], task_vars: t.Any, check: bool) -> dict[str, t.Any]:
        action: t.Any = self
        before = self._task.check_mode
        self._task.check_mode = check
        try:
            return dict(action._execute_module(module_name=MODULE, module_args=arguments, task_vars=task_vars))
        finally:
            self._task.check_mode = before
