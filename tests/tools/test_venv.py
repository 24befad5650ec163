# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""tools/venv.sh on a copy of itself, with a Python and an uv that only write down how they were called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

LOCK = """\
# a comment
alpha==1 \\
    --hash=sha256:aa
    # via beta
uv==2 \\
    --hash=sha256:bb \\
    --hash=sha256:cc
    # via -r dev.in
zeta==3 \\
    --hash=sha256:dd
"""

# Plays python3.12: says its own name, and makes a "virtual environment" that holds itself and an uv.
PYTHON = """\
#!/bin/sh
case "$*" in
    *_base_executable*) [ "$3" = 3.12 ] && echo "$PYTHON" ;;
    *"-m venv "*)
        mkdir -p "$3/bin" && cp "$PYTHON" "$3/bin/python" && echo "venv" >>"$CALLS" || exit 1
        printf '#!/bin/sh\\necho "ansible [core 2.x]"\\n' >"$3/bin/ansible"
        printf '#!/bin/sh\\necho "uv $*" >>"$CALLS"\\nexit ${UV_CODE:-0}\\n' >"$3/bin/uv.new"
        printf '#!/bin/sh\\n' >"$3/bin/pip"
        chmod +x "$3"/bin/* ;;
    *"-m pip "*)
        echo "pip $*" | sed 's/ -m pip.* install / install /' >>"$CALLS"
        for file; do :; done
        case "$file" in *uv-pin.txt) cp "$file" "$CALLS.pin" && mv "${0%/*}/uv.new" "${0%/*}/uv" ;; esac ;;
    --version) echo "Python 3.12.0" ;;
esac
"""


class Checkout:
    """A folder with tools/venv.sh and a lock, and the calls that a run made."""

    def __init__(self, root: Path) -> None:
        self.root = root / "checkout"
        (self.root / "tools").mkdir(parents=True)
        (self.root / "requirements").mkdir()
        shutil.copy(ROOT / "tools/venv.sh", self.root / "tools")
        self.lock = self.root / "requirements/dev.txt"
        self.lock.write_text(LOCK)
        self.calls_file = root / "calls"
        self.bin = root / "bin"
        self.bin.mkdir()
        self.add_python("python3.12", PYTHON)
        # a shim that does not run, in front of everything
        self.shims = root / "shims"
        self.shims.mkdir()
        for version in ("3.13", "3.12"):
            self.add_python(f"../shims/python{version}", "#!/bin/sh\nexit 127\n")

    def add_python(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        self.calls_file.write_text("")
        return subprocess.run(
            ["bash", self.root / "tools/venv.sh"],
            env={
                "PATH": f"{self.shims}:{self.bin}:/usr/bin:/bin",
                "HOME": str(self.root),
                "PYENV_ROOT": str(self.root / "none"),
                "CALLS": str(self.calls_file),
                "PYTHON": str(self.bin / "python3.12"),
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        """First words of what was called."""
        return [line.split()[0] for line in self.calls_file.read_text().splitlines()]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_makes_the_environment_past_shims_that_do_not_run(checkout: Checkout) -> None:
    done = checkout.run()
    assert done.returncode == 0, done.stderr
    assert checkout.calls == ["venv", "pip", "uv"]
    assert "--require-hashes" in checkout.calls_file.read_text()
    assert "ready in" in done.stderr
    link = checkout.root / ".collections/ansible_collections/flotilla/cluster"
    assert link.resolve() == checkout.root.resolve()


def test_second_run_does_nothing_and_says_nothing(checkout: Checkout) -> None:
    checkout.run()
    done = checkout.run()
    assert (done.returncode, done.stderr, checkout.calls) == (0, "", [])


def test_pip_gets_the_pin_of_uv_alone(checkout: Checkout) -> None:
    checkout.run()
    assert Path(f"{checkout.calls_file}.pin").read_text() == "uv==2 \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\n"


def test_changed_lock_is_installed_in_place(checkout: Checkout) -> None:
    checkout.run()
    checkout.lock.write_text(LOCK.replace("zeta==3", "zeta==4"))
    done = checkout.run()
    assert (done.returncode, checkout.calls) == (0, ["uv"]), done.stderr
    assert checkout.run().stderr == ""


def test_half_made_environment_is_made_again(checkout: Checkout) -> None:
    checkout.run()
    (checkout.root / ".venv/.stamp").unlink()
    left = checkout.root / ".venv/left"
    left.touch()
    assert checkout.run().returncode == 0
    assert checkout.calls == ["venv", "pip", "uv"]
    assert not left.exists()


def test_moved_checkout_is_made_again(checkout: Checkout) -> None:
    checkout.run()
    moved = checkout.root.with_name("moved")
    os.rename(checkout.root, moved)
    checkout.root = moved
    assert checkout.run().returncode == 0
    assert checkout.calls == ["venv", "pip", "uv"]


def test_without_uv_pip_installs_all(checkout: Checkout) -> None:
    done = checkout.run(UV_CODE="1")
    assert done.returncode == 0, done.stderr
    assert checkout.calls == ["venv", "pip", "uv", "pip"]
    assert checkout.calls_file.read_text().splitlines()[-1].endswith("--require-hashes -r requirements/dev.txt")


def test_no_python_is_one_sentence(checkout: Checkout, tmp_path: Path) -> None:
    # every folder that could hold a Python but the ones of the programs that the script needs
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sha256sum", "cut", "head", "tail", "readlink", "mkdir", "ln", "mv", "flock", "dirname", "rm"):
        (tools / name).symlink_to(shutil.which(name) or name)
    text = (checkout.root / "tools/venv.sh").read_text().replace("folders+=(/usr/bin /usr/local/bin", "folders+=(")
    (checkout.root / "tools/venv.sh").write_text(text)
    done = subprocess.run(
        ["/bin/bash", checkout.root / "tools/venv.sh"],
        env={"PATH": f"{checkout.shims}:{tools}", "HOME": str(tmp_path), "PYENV_ROOT": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "venv: no Python of 3.13 3.12 3.11 found in PATH, /usr/bin, /usr/local/bin or pyenv's versions; install one, "
        "on Debian 12 with: apt-get install python3 python3-venv\n"
    )
    assert not (checkout.root / ".venv").exists()
