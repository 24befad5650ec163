# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""etcd of every minor version for tests: 3.4 from Debian's package, later ones built from the Go modules.

Builds go into a cache outside the checkout, in the form of upstream's release archives. Where there is no Go, or the
modules cannot be had, tests that ask for one are skipped and say so.

    python tests/support/etcd_builds.py 3.6     # builds, prints the archive's path and SHA-256
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "flotilla" / "etcd-builds"
# newest of each minor version when this was written
VERSIONS = {"3.5": "3.5.35", "3.6": "3.6.16", "3.7": "3.7.3"}
PROGRAMS = {"etcd": "server", "etcdctl": "etcdctl", "etcdutl": "etcdutl"}
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_GO = ("go", "/usr/local/go/bin/go", "/usr/lib/go/bin/go")


@dataclass(frozen=True)
class Build:
    """One version: its programs' folder, and the same as a release archive."""

    version: str
    folder: Path
    archive: Path
    sha256: str


def _go() -> str | None:
    return next((found for name in _GO for found in [shutil.which(name)] if found), None)


def _run(directory: Path, *command: str) -> None:
    # modules come through the proxy that this machine is set up for, and Go checks their sums
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false -mod=mod"}
    done = subprocess.run(
        ["nice", *command], cwd=directory, env=environment, capture_output=True, text=True, timeout=1500, check=False
    )
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")


def _compile(version: str, go: str, folder: Path) -> None:
    """Builds the three programs. The small main packages are etcd's own, one in each module."""
    source = folder.with_name(f"{folder.name}.src")
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    _run(source, go, "mod", "init", "flotilla.example/etcd")
    modules = [f"go.etcd.io/etcd/{module}/v3" for module in PROGRAMS.values()]
    _run(source, go, "get", *(f"{module}@v{version}" for module in modules))
    folder.mkdir(exist_ok=True)
    for program, module in PROGRAMS.items():
        target = str(folder / program)
        _run(source, go, "build", "-trimpath", "-ldflags=-s -w", "-o", target, f"go.etcd.io/etcd/{module}/v3")
    shutil.rmtree(source)


def build(minor: str) -> Build | str:
    """The newest version of a minor one, or why it cannot be had. Takes about a minute the first time."""
    version = VERSIONS[minor]
    architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
    name = f"etcd-v{version}-linux-{architecture}"
    CACHE.mkdir(parents=True, exist_ok=True)
    folder, archive, summed = CACHE / name, CACHE / f"{name}.tar.gz", CACHE / f"{name}.sha256"
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not summed.exists():
            go = _go()
            if go is None:
                return "there is no Go to build etcd with"
            try:
                if not all((folder / program).exists() for program in PROGRAMS):
                    _compile(version, go, folder)
                with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
                    tar.add(folder, name)
            except (OSError, subprocess.SubprocessError) as exc:
                return f"etcd {version} cannot be built: {exc}"
            summed.write_text(hashlib.sha256(archive.read_bytes()).hexdigest())
    return Build(version, folder, archive, summed.read_text())


if __name__ == "__main__":
    found = build(sys.argv[1])
    if isinstance(found, str):
        sys.exit(found)
    print(found.archive, found.sha256)
