# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
# Do not use this code from other collections or standalone plugins and modules!

"""A note on a host that some files were found to be as wanted, with what they looked like then.

Who compares the wish with the note and the note with the files knows that all is well without the work that it took to
find out. A seal says nothing by itself: a file that was touched, or that is gone, breaks it, and time ends it.
"""

from __future__ import annotations

import hashlib
import json
import os
import typing as t

NONE: dict[str, t.Any] = {"wish": "", "until": 0.0, "intact": False}
MODE = 0o600


def look(path: str) -> list[t.Any] | None:
    """What a seal remembers of a file or directory: hash, owner, group, mode; None when there is none."""
    try:
        if os.path.isdir(path):
            status = os.stat(path)
            return ["", status.st_uid, status.st_gid, status.st_mode & 0o7777]
        with open(path, "rb") as handle:
            status = os.fstat(handle.fileno())
            digest = hashlib.sha256(handle.read()).hexdigest()
    except OSError:
        return None
    return [digest, status.st_uid, status.st_gid, status.st_mode & 0o7777]


def text(wish: str, until: float, files: t.Iterable[str]) -> str:
    """The seal of files that are as wanted until a time, in seconds since the epoch; ``wish`` stands for the wish."""
    return json.dumps({"wish": wish, "until": until, "files": {name: look(name) for name in files}}, sort_keys=True)


def read(path: str) -> dict[str, t.Any]:
    """The seal at a path: its wish, until when it holds, and whether the files are as they were. No seal is broken."""
    try:
        with open(path, encoding="utf-8") as handle:
            found = json.load(handle)
        intact = all(known is not None and look(name) == known for name, known in found["files"].items())
        return {"wish": str(found["wish"]), "until": float(found["until"]), "intact": intact}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return dict(NONE)
