# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""For tests that run programs of the checkout."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def done(*argv: str, cwd: Path = ROOT, timeout: float, check: bool = True, **environment: str) -> tuple[str, str]:
    """Run a program, in the checkout unless told otherwise; what it printed to its two outputs."""
    ended = subprocess.run(
        argv,
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if check:
        assert ended.returncode == 0, f"{argv}: {ended.stdout[-3000:]} {ended.stderr[-3000:]}"
    return ended.stdout, ended.stderr
