# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small files under /run that let a restarted fleetd go on where it was; a reboot forgets them, as it should."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def write_atomic(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file whole or not at all."""
    handle, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(text)
            os.fchmod(stream.fileno(), mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class Memory:
    """Named JSON records in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _path(self, name: str) -> Path:
        return self.directory / f"{name}.json"

    def read(self, name: str) -> dict[str, Any]:
        """The record, or {} when there is none or it cannot be read."""
        try:
            value = json.loads(self._path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def write(self, name: str, record: dict[str, Any]) -> None:
        write_atomic(self._path(name), json.dumps(record, sort_keys=True), 0o600)

    def keep(self, name: str, record: dict[str, Any]) -> None:
        """Write what only helps the next fleetd; a full disk is told and otherwise nothing."""
        try:
            self.write(name, record)
        except OSError as exc:
            log.warning("cannot write %s: %s", self._path(name), exc)

    def remove(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def names(self, prefix: str) -> list[str]:
        """Names of the records that begin with the prefix."""
        return sorted(path.stem for path in self.directory.glob(f"{prefix}*.json"))
