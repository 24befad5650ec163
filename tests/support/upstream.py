# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Upstream's fleet 1.0.0, built with Go into an archive of the shape of upstream's releases, for tests and benchmarks.

The archive stays in a cache outside the checkout: it is built once a machine, in two minutes.

    .venv/bin/python tests/support/upstream.py        prints the path and the SHA-256
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("upstream_fleet")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "flotilla" / "upstream-fleet"
VERSION = "1.0.0"
NAME = f"fleet-v{VERSION}-linux-amd64"
_PACKAGES = {"fleetd": "github.com/coreos/fleet", "fleetctl": "github.com/coreos/fleet/fleetctl"}
_SECONDS = 900


@dataclass(frozen=True)
class Archive:
    """A release archive: its path and its SHA-256 in hexadecimal."""

    path: Path
    sha256: str

    @property
    def variables(self) -> dict[str, str]:
        """What role fleet is given to install it."""
        return {
            "fleet_source": "release",
            "fleet_release_version": VERSION,
            "fleet_release_url": str(self.path),
            "fleet_release_sha256": self.sha256,
        }


def go() -> str | None:
    """The Go compiler: from PATH, or where its own installer and the distribution's package put it."""
    found = shutil.which("go")
    if found:
        return found
    return next((place for place in ("/usr/local/go/bin/go", "/usr/lib/go/bin/go") if os.access(place, os.X_OK)), None)


def recipe(source: Path = SOURCE, name: str = NAME) -> str:
    """A name for what programs are built from: a folder, and what else decides."""
    digest = hashlib.sha256(name.encode())
    for path in sorted(source.rglob("*")):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def archive() -> Archive | None:
    """The archive, built now if it was not before; None where there is no Go or it cannot get what it needs."""
    path = CACHE / recipe() / f"{NAME}.tar.gz"
    compiler = go()
    if not path.exists() and (compiler is None or not _build(compiler, path)):
        return None
    return Archive(path, hashlib.sha256(path.read_bytes()).hexdigest())


def _build(compiler: str, path: Path) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        folder = Path(name)
        shutil.copytree(SOURCE, folder / "source")
        settings = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"}
        for program, package in _PACKAGES.items():
            command = [
                *(compiler, "build", "-trimpath", "-o", str(folder / NAME / program)),
                *("-ldflags", f"-X github.com/coreos/fleet/version.Version={VERSION}", package),
            ]
            done = subprocess.run(
                command, cwd=folder / "source", env=settings, capture_output=True, timeout=_SECONDS, check=False
            )
            if done.returncode:
                print(f"upstream: {package} cannot be built: {done.stderr.decode()[-2000:]}", file=sys.stderr)
                return False
        made = folder / path.name
        with tarfile.open(made, "w:gz") as tar:
            tar.add(folder / NAME, NAME)
        made.replace(path)
    return True


def main() -> int:
    found = archive()
    if found is None:
        print("upstream: no Go here, or it cannot get the sources", file=sys.stderr)
        return 1
    print(found.path, found.sha256)
    return 0


if __name__ == "__main__":
    sys.exit(main())
