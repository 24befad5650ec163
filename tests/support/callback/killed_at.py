# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kills the controller when the task begins whose number KILLED_AT says, as a power failure would."""

from __future__ import annotations

import os
import signal
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: killed_at
short_description: Kills the controller at a task
description: [For tests.]
type: notification
"""


class CallbackModule(CallbackBase):
    """Counts tasks."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "killed_at"

    def __init__(self) -> None:
        super().__init__()
        self._left = int(os.environ["KILLED_AT"])

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Ends all when it is the one."""
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
