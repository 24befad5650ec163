# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One host, and role docker on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from daytwo.lab import Lab

PLAYBOOK = str(Path(__file__).with_name("docker.yml"))


class Host(Lab):
    """A host without anything of ours."""

    def __init__(self, folder: Path, cluster: str, prefix: str) -> None:
        super().__init__(folder, cluster, prefix, count=1)

    def docker(self, *, fails: bool = False, **variables: Any) -> str:
        """What the play says with these variables."""
        return self.play(PLAYBOOK, fails=fails, **variables)

    def says(self, script: str) -> str:
        """What a script on the host prints, without white space around it."""
        return self.on(self.hosts[0], script).strip()
