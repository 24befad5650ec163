# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CoreOS's own agent and validator (coreos-cloudinit 1.14.0), built with Go from its packages, for tests.

The program stays in a cache outside the checkout: it is built once a machine, in seconds. What it does is told in
C(original_cloudinit/main.go).
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from support.upstream import go, recipe

SOURCE = Path(__file__).with_name("original_cloudinit")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "flotilla" / "original-cloudinit"
_SECONDS = 600


def program() -> Path | str:
    """The program, built now if it was not before, or why it cannot be had."""
    made = CACHE / recipe(SOURCE, "") / "original"
    if made.exists():
        return made
    compiler = go()
    if compiler is None:
        return "there is no Go to build CoreOS's agent with"
    made.parent.mkdir(parents=True, exist_ok=True)
    settings = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOTOOLCHAIN": "local"}
    draft = made.with_name(f"original.{os.getpid()}")
    done = subprocess.run(
        ["nice", compiler, "build", "-trimpath", "-o", str(draft), "."],
        cwd=SOURCE, env=settings, capture_output=True, text=True, timeout=_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode:
        return f"CoreOS's agent cannot be built: {done.stderr.strip()[-500:]}"
    draft.replace(made)
    return made


def run(original: Path, *arguments: str | Path, **environment: str) -> Any:
    """What the program says."""
    done = subprocess.run(
        [original, *arguments],
        env={"PATH": "/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
