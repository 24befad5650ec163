# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Has the distribution's C(requests) installed, where a module finds none. Loaded only then."""

from __future__ import annotations

import importlib
import os
import typing as t

from ansible.module_utils.basic import missing_required_lib
from ansible_collections.flotilla.cluster.plugins.module_utils import _http_session
from ansible_collections.flotilla.cluster.plugins.module_utils._http import printable

if t.TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

PACKAGE = "python3-requests"
MISSING_HINT = f"on Debian and Ubuntu: apt-get install {PACKAGE}"


def install_or_end(module: AnsibleModule) -> None:
    """Installs C(requests), or ends the module with one sentence.

    Where it is missing it is installed, as ansible-core's module for apt does with the library that it needs.
    """
    missing = _http_session.REQUESTS_ERROR
    problem = _install(module)
    if problem is None:
        module.warn(f"{PACKAGE} was missing on this host and has been installed, as this module needs it")
        return
    reason = f"to speak HTTP ({MISSING_HINT}){problem}"
    module.fail_json(msg=missing_required_lib("requests", reason=reason), exception=missing)


def _install(module: AnsibleModule) -> str | None:
    """Installs the distribution's package and loads it.

    Returns None when that went well, else what apt had against it, to stand behind a sentence.
    """
    apt = module.get_bin_path("apt-get")
    # a Python of somebody's own does not see what the distribution installs
    if apt is None or module.check_mode or os.geteuid() != 0 or not _http_session.FROM_DISTRIBUTION:
        return ""
    options = ["-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]
    environment = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    status, said = 1, ""
    # lists can be missing, or name versions that the archive has replaced
    for commands in ([], ["update"]):
        for command in [*commands, f"install {PACKAGE}"]:
            status, _output, said = module.run_command(
                [apt, *options, *command.split()], environ_update=environment, handle_exceptions=False
            )
        if status == 0:
            break
    importlib.invalidate_caches()
    importlib.reload(_http_session)
    if _http_session.REQUESTS_ERROR is None:
        return None
    return f"; apt-get could not install it: {printable(said)}" if status else ""
