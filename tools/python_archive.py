# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a Python that needs nothing of the host it runs on: ``python3 tools/python_archive.py FILE.tar.gz``.

It is Debian's, of this machine's release, with every library it needs down to the C library, which its own loader finds
beside it. So it runs on any Linux of the same architecture, wherever it is unpacked.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from localhosts.plan import HostsError
from localhosts.system import run, status_of

#: Parts of the library that no module of Ansible needs.
_LEFT_OUT = ("test", "idlelib", "lib2to3", "ensurepip", "pydoc_data", "turtledemo", "tkinter")

#: Its name is that of the command, so that Python calls itself by it. Nothing is set that its children would inherit.
_COMMAND = """\
#!/bin/sh
here=${{0%/*}}/..
exec "$here/lib/{loader}" --library-path "$here/lib" --argv0 "$0" "$here/bin/{python}" "$@"
"""


def libraries(package: str) -> list[str]:
    """A package and all that it depends on."""
    listed = run("apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts",
                 "--no-breaks", "--no-replaces", "--no-enhances", package)  # fmt: skip
    names = [line for line in listed.splitlines() if re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", line)]
    return [name for name in names if name.startswith(("lib", "zlib", "python3")) and "perl" not in name]


def build(target: Path) -> str:
    """Make the archive and return its SHA-256. Raises HostsError."""
    version = re.search(r"Depends: python(3\.\d+) ", run("apt-cache", "show", "--no-all-versions", "python3"))
    if not version:
        raise HostsError("apt knows no package python3: run apt-get update on a machine with Debian")
    name = f"python{version[1]}"
    with tempfile.TemporaryDirectory(prefix="python-") as folder:
        work, root, made = Path(folder), Path(folder) / "root", Path(folder) / "python"
        names = libraries(f"{name}-minimal") + libraries(f"lib{name}-stdlib")
        wanted = sorted(set(names))
        done = subprocess.run(
            ["apt-get", "-qq", "download", *wanted], cwd=work, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise HostsError(f"apt-get download failed: {done.stderr.strip()[-400:]}")
        for package in sorted(work.glob("*.deb")):
            run("dpkg-deb", "--extract", str(package), str(root))
        _assemble(root, made, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_suffix(".part")
        with tarfile.open(draft, "w:gz") as archive:
            archive.add(made, "python", filter=_root_owned)
        draft.replace(target)
    return hashlib.sha256(target.read_bytes()).hexdigest()


def _assemble(root: Path, made: Path, name: str) -> None:
    """bin/ with the command and the program, lib/ with its loader, libraries and modules."""
    (made / "bin").mkdir(parents=True)
    shutil.copytree(
        root / "usr/lib" / name, made / "lib" / name, ignore=shutil.ignore_patterns(*_LEFT_OUT, "__pycache__")
    )
    for folder in ("usr/lib", "lib"):
        for path in (root / folder).glob("*-linux-gnu*/*.so*"):
            shutil.copy2(path.resolve(), made / "lib" / path.name)
    loader = next((root / "lib").glob("*-linux-gnu*/ld-linux-*.so.*"))
    shutil.copy2(root / "usr/bin" / name, made / "bin" / f"{name}.bin")
    command = made / "bin/python3"
    command.write_text(_COMMAND.format(loader=loader.name, python=f"{name}.bin"))
    command.chmod(0o755)


def _root_owned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def main() -> int:
    """Run; 0 when the archive is there."""
    parser = argparse.ArgumentParser(prog="python_archive.py", description=__doc__)
    parser.add_argument("file", type=Path, help="the archive")
    options = parser.parse_args()
    return status_of(parser.prog, lambda: print(build(options.file.absolute())))


if __name__ == "__main__":
    sys.exit(main())
