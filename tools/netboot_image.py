# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make what role netboot serves from the image of local hosts: ``python3 tools/netboot_image.py FOLDER``.

The folder gets ``vmlinuz`` and ``initrd.img`` of the installer, ``disk.img.gz``, a disk that boots by itself (BIOS, one
partition, cloud-init), and ``SHA256SUMS`` of them.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

from localhosts import cluster, disk, packages
from localhosts.system import Progress, install, run, status_of


def build(folder: Path, progress: Progress) -> None:
    """Make the files, unless they are of these very layers already. Raises HostsError."""
    layers = cluster.ensure_image("netboot", None, False, progress)
    recipe = disk.recipe_of(Path(__file__))
    stamp, wanted = folder / "made-of", " ".join((*layers, recipe))
    if stamp.exists() and stamp.read_text() == wanted:
        progress.say(f"{folder} is there already")
        return
    install(*packages.BOOT_LOADER)
    folder.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".image-", dir=folder) as name,
        progress.step(f"making {folder}/disk.img.gz"),
    ):
        work = Path(name)
        with disk.mounted(layers, work) as root:
            disk.write(work / "disk.img", root)
            for source, target in zip(disk.kernel_of(root), ("vmlinuz", "initrd.img"), strict=True):
                (folder / target).write_bytes(source.read_bytes())
        run("gzip", "-1", str(work / "disk.img"), timeout=600)
        (work / "disk.img.gz").replace(folder / "disk.img.gz")
    sums = ((_sha256(folder / name), name) for name in ("vmlinuz", "initrd.img", "disk.img.gz"))
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for digest, name in sums))
    stamp.write_text(wanted)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def main() -> int:
    """Run; 0 when the files are there."""
    parser = argparse.ArgumentParser(prog="netboot_image.py", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to, such as /var/cache/flotilla/netboot")
    options = parser.parse_args()
    return status_of(parser.prog, lambda: build(options.folder.absolute(), Progress()), by_root=True)


if __name__ == "__main__":
    sys.exit(main())
