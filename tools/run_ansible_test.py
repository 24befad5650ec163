# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs ``ansible-test sanity`` or ``ansible-test units`` on the collection as the checkout holds it now.

ansible-test wants a collection in ``ansible_collections/<namespace>/<name>``, real Pythons in PATH and a script that
it downloads. This program gives it a copy of what the collection ships (galaxy.yml says what it does not) with its
unit tests, a PATH without the shims of a version manager, and a stand-in for the script: so it runs wherever packages
can be installed with pip, and nothing else can be reached.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
# Controllers of every core that we support, and the hosts' oldest.
VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13")

# ansible-test runs this in each new virtual environment in place of the script get-pip.py, with pip's arguments.
BOOTSTRAP = """\
# Stands in for get-pip.py where only package registries can be reached. Written by flotilla.cluster's
# tools/run_ansible_test.py; remove it to let ansible-test download the real one.
import ensurepip
import os
import subprocess
import sys

kept = dict(os.environ)
ensurepip.bootstrap()
# ensurepip drops pip's settings from the environment, with them certificates and proxies
os.environ.clear()
os.environ.update(kept)
wanted = [argument for argument in sys.argv[1:] if argument not in ("--no-setuptools", "--no-wheel")]
sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", "--quiet", *wanted]))
"""


def say(text: str) -> None:
    """Prints one line of progress."""
    print(f"ansible-test: {text}", file=sys.stderr, flush=True)


def project_files(root: Path) -> list[str]:
    """Paths, relative to root, of the files that git tracks or would track if they were added."""
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        stdout=subprocess.PIPE,
    )
    paths = listed.stdout.decode().split("\0")
    # a tracked file that was just deleted is still listed
    return sorted({path for path in paths if path and os.path.lexists(root / path)})


def shipped(paths: Sequence[str], build_ignore: Sequence[str]) -> list[str]:
    """Those of the paths that ansible-test is to see: what the collection is built from, and its unit tests.

    :arg build_ignore: patterns as in galaxy.yml, for files and for folders with all that is in them.
    """
    return [path for path in paths if is_for_ansible_test(path) or not is_ignored(path, build_ignore)]


def is_for_ansible_test(path: str) -> bool:
    """Whether a file that is not shipped is ansible-test's own, one of its unit tests, or data for them."""
    own = ("galaxy.yml", "tests/config.yml", "tests/conftest.py")
    data = path.startswith("tests/") and path.endswith(".json")
    return path in own or data or path.startswith(("tests/unit/", "tests/sanity/"))


def is_ignored(path: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern fits a file or a folder that holds it."""
    parts = path.split("/")
    above = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return any(fnmatch.fnmatch(folder, pattern) for folder in above for pattern in patterns)


def copy_files(root: Path, paths: Sequence[str], target: Path) -> None:
    """Copies files with their modes and times; links stay links."""
    for path in paths:
        copy = target / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / path, copy, follow_symlinks=False)


def runs(python: Path, version: str) -> bool:
    """Whether a file is a Python of this version that starts and can make a virtual environment."""
    code = f"import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
    if not os.access(python, os.X_OK):
        return False
    done = subprocess.run([python, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return done.returncode == 0


def find_pythons(path: Sequence[str], home: Path) -> dict[str, Path]:
    """The first Python of each version that runs, in PATH or among pyenv's versions.

    :arg path: folders of PATH.
    :arg home: folder that holds ``.pyenv``.
    :returns: version ("3.11") to the executable itself: a shim is followed to what it stands for.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", home / ".pyenv"))
    folders = [Path(folder) for folder in path if folder]
    folders += [Path("/usr/bin"), Path("/usr/local/bin"), *sorted(pyenv.glob("versions/*/bin"))]
    found = {}
    for version in VERSIONS:
        for folder in folders:
            python = folder / f"python{version}"
            if runs(python, version):
                found[version] = real_executable(python)
                break
    return found


def real_executable(python: Path) -> Path:
    """The executable behind a shim or a virtual environment's link."""
    code = "import sys; print(getattr(sys, '_base_executable', sys.executable))"
    done = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, check=True)
    return Path(done.stdout.decode().strip())


def make_path(pythons: dict[str, Path], own: Path, path: Sequence[str], links: Path) -> str:
    """A PATH in which each ``pythonX.Y`` that can be found also runs.

    :arg pythons: what :func:`find_pythons` gave.
    :arg own: the folder of ansible-test and of the Python that runs it: comes first.
    :arg path: folders of PATH; the ones with shims are left out.
    :arg links: an empty folder, filled with links to the Pythons.
    """
    for version, python in pythons.items():
        (links / f"python{version}").symlink_to(python)
    others = [folder for folder in path if folder and Path(folder).name != "shims" and Path(folder) != own]
    return os.pathsep.join([str(own), str(links), *others])


@contextlib.contextmanager
def pip_bootstrap(home: Path) -> Iterator[None]:
    """Puts the stand-in where ansible-test keeps its download, unless the real one is there, and takes it away."""
    package = Path(sysconfig.get_path("purelib"), "ansible_test")
    source = (package / "_internal" / "python_requirements.py").read_text()
    match = re.search(r"pip='([0-9.]+)'", source)
    if not match:
        sys.exit(
            "ansible-test: this ansible-core does not say which pip it wants, in python_requirements.py;"
            " tools/run_ansible_test.py knows core 2.18 to 2.21"
        )
    script = home / ".ansible" / "test" / "cache" / f"get_pip_{match[1].replace('.', '_')}.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    # Runs share it, and the last one removes it: each holds the lock, and removing takes the lock alone.
    with script.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        if not script.exists():
            fresh = script.with_suffix(f".{os.getpid()}")
            fresh.write_text(BOOTSTRAP)
            fresh.replace(script)
        try:
            yield
        finally:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if script.exists() and script.read_text() == BOOTSTRAP:
                    script.unlink()


def commands(stage: str, pythons: Sequence[str], extra: Sequence[str]) -> list[list[str]]:
    """The calls of ansible-test that make up a stage.

    :arg stage: "sanity" or "units".
    :arg pythons: versions at hand, oldest first.
    :arg extra: arguments given by the caller, for each call.
    """
    if stage == "sanity":
        # checks what depends on a version with each one, and the rest once
        return [["ansible-test", "sanity", "--color", "no", *extra]]
    # plain pytest runs them on the newest, as part of the same `make test`
    return [["ansible-test", "units", "--color", "no", "--venv", "--python", pythons[0], *extra]]


def main() -> int:
    """Runs one stage; returns the exit code of the first call that failed, or 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["sanity", "units"])
    parser.add_argument("extra", nargs="*", help="arguments for ansible-test, after --")
    arguments = parser.parse_args()

    home = Path.home()
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    pythons = find_pythons(path, home)
    with tempfile.TemporaryDirectory(prefix="flotilla-ansible-test-") as scratch, pip_bootstrap(home):
        links = Path(scratch, "pythons")
        links.mkdir()
        tree = Path(scratch, "ansible_collections", "flotilla", "cluster")
        ignored = yaml.safe_load((ROOT / "galaxy.yml").read_text())["build_ignore"]
        files = shipped(project_files(ROOT), ignored)
        copy_files(ROOT, files, tree)
        environment = {**os.environ, "PATH": make_path(pythons, Path(sys.executable).parent, path, links)}
        say(f"{len(files)} files, Python {', '.join(pythons)}")
        for command in commands(arguments.stage, list(pythons), arguments.extra):
            say(" ".join(command))
            begun = time.monotonic()
            code = subprocess.run(command, cwd=tree, env=environment, check=False).returncode
            say(f"exit code {code} after {time.monotonic() - begun:.1f} s")
            if code:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
