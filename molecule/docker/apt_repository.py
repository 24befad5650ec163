# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A signed apt repository like docker's own, of the distribution's docker under another name: apt_repository.py FOLDER.

It has docker-ce in two versions, and a package of the distribution in a version that must never come from there.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

VERSIONS = ("5:90.0.0-1~test", "5:90.0.1-1~test")
DECOY = ("hostname", "99:1")
SUITE = "test"


def run(*argv: str, **more: object) -> str:
    """Output of a command that has to succeed."""
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, **more).stdout  # type: ignore[call-overload,no-any-return]


def renamed(control: str, name: str, version: str) -> str:
    """The control file of a package under another name, which is no other's replacement any more than the first was."""
    fields = {"Package": name, "Version": version, "Source": name}
    for key, value in fields.items():
        control = re.sub(rf"(?m)^{key}:.*$", f"{key}: {value}", control)
    return re.sub(r"(?m)^(Conflicts|Breaks|Replaces):.*\n(?: .*\n)*", "", control)


def build(folder: Path, source: str, name: str, versions: tuple[str, ...]) -> None:
    """Packages of another name with the content of one of the distribution's."""
    work = folder / ".work"
    work.mkdir(parents=True)
    run("apt-get", "download", "-qq", source, cwd=work)
    (deb,) = work.glob(f"{source}_*.deb")
    run("dpkg-deb", "--raw-extract", str(deb), str(work / "root"))
    control = work / "root/DEBIAN/control"
    original = control.read_text()
    for version in versions:
        control.write_text(renamed(original, name, version))
        target = folder / "pool" / f"{name}_{version.partition(':')[2]}_amd64.deb"
        target.parent.mkdir(exist_ok=True)
        run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(work / "root"), str(target))
    run("rm", "-r", str(work))


def index(folder: Path) -> None:
    """Packages and a signed InRelease, with a key that is made for it."""
    stanzas = []
    for deb in sorted((folder / "pool").glob("*.deb")):
        content = deb.read_bytes()
        stanzas.append(
            f"{run('dpkg-deb', '--field', str(deb)).rstrip()}\nFilename: pool/{deb.name}\nSize: {len(content)}\n"
            f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
        )
    packages = folder / f"dists/{SUITE}/stable/binary-amd64/Packages"
    packages.parent.mkdir(parents=True)
    packages.write_text("\n".join(stanzas))
    content = packages.read_bytes()
    release = (
        f"Origin: Test\nSuite: {SUITE}\nCodename: {SUITE}\nArchitectures: amd64\nComponents: stable\n"
        f"Date: {run('date', '-Ru').strip().replace('+0000', 'UTC')}\nSHA256:\n"
        f" {hashlib.sha256(content).hexdigest()} {len(content)} stable/binary-amd64/Packages\n"
    )
    home = folder / ".gnupg"
    home.mkdir(mode=0o700)
    gpg = ("gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", "")
    run(*gpg, "--quick-gen-key", "Test repository", "ed25519", "sign", "never")
    (folder / f"dists/{SUITE}/InRelease").write_text(run(*gpg, "--clearsign", input=release))
    (folder / "key.asc").write_text(run(*gpg, "--armor", "--export"))
    listed = run(*gpg, "--list-keys", "--with-colons")
    (folder / "fingerprint").write_text(re.findall(r"(?m)^fpr:+([0-9A-F]{40}):", listed)[0])
    subprocess.run(("gpgconf", "--homedir", str(home), "--kill", "all"), check=False)
    run("rm", "-r", str(home))


if __name__ == "__main__":
    place = Path(sys.argv[1])
    build(place, "docker.io", "docker-ce", VERSIONS)
    build(place, DECOY[0], *DECOY[:1], (DECOY[1],))
    index(place)
    print(place)
