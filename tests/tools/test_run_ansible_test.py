# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ansible-test is given: Pythons that run, a copy of the checkout, and a stand-in for its download."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import run_ansible_test as tool

OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
EXECUTABLE = tool.real_executable(Path(sys.executable))


def script(path: Path, text: str) -> Path:
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_broken_shims_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setattr(tool, "VERSIONS", (OWN,))
    shims = tmp_path / "shims"
    script(shims / f"python{OWN}", "#!/bin/sh\nexit 127\n")
    real = script(tmp_path / "pyenv/versions/x/bin" / f"python{OWN}", f'#!/bin/sh\nexec {EXECUTABLE} "$@"\n')
    assert tool.runs(real, OWN)
    # the executable is asked for its own name, so that no shim is handed on
    assert tool.find_pythons([str(shims), str(real.parent)], tmp_path) == {OWN: EXECUTABLE}


def test_python_of_another_version_is_passed_over(tmp_path: Path) -> None:
    assert not tool.runs(EXECUTABLE, "3.9" if OWN != "3.9" else "3.10")
    assert not tool.runs(tmp_path / "missing", OWN)


def test_path_begins_with_the_own_folder_and_has_no_shims(tmp_path: Path) -> None:
    path = tool.make_path({OWN: EXECUTABLE}, Path("/own"), ["/a/shims", "/own", "/usr/bin"], tmp_path)
    assert path.split(os.pathsep) == ["/own", str(tmp_path), "/usr/bin"]
    assert os.readlink(tmp_path / f"python{OWN}") == str(EXECUTABLE)


def test_copy_has_what_git_would_track_and_links_stay_links(tmp_path: Path) -> None:
    root, copy = tmp_path / "root", tmp_path / "copy"
    script(root / "tool.sh", "#!/bin/sh\n")
    (root / "deleted").write_text("")
    (root / ".gitignore").write_text("ignored\n")
    for command in (["init", "--quiet"], ["add", "deleted", "tool.sh"]):
        subprocess.run(["git", "-C", root, *command], check=True)
    (root / "deleted").unlink()
    (root / "ignored").write_text("")
    (root / "link").symlink_to("tool.sh")
    paths = tool.project_files(root)
    assert paths == [".gitignore", "link", "tool.sh"]
    tool.copy_files(root, paths, copy)
    assert os.readlink(copy / "link") == "tool.sh"
    assert os.access(copy / "tool.sh", os.X_OK)


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("plugins/modules/a.py", True),
        ("roles/tools/tasks/main.yml", True),
        ("tools/a.py", False),
        ("a.tar.gz", False),
        ("tests/fleet/test_a.py", False),
        ("tests/unit/plugins/modules/test_a.py", True),
        ("tests/config.yml", True),
        ("tests/fleet/exchanges.json", True),
        # there should be none, but one that is there has to count
        ("tests/sanity/ignore-2.21.txt", True),
    ],
)
def test_ansible_test_sees_what_is_shipped_and_its_own_tests(path: str, seen: bool) -> None:
    assert tool.shipped([path], ["tools", "tests", "*.tar.gz"]) == ([path] if seen else [])


def stand_ins(home: Path) -> list[Path]:
    """What lies where ansible-test looks for its download."""
    return sorted((home / ".ansible/test/cache").glob("*.py"))


def test_stand_in_is_removed_and_a_real_one_kept(tmp_path: Path) -> None:
    with tool.pip_bootstrap(tmp_path):
        (placed,) = stand_ins(tmp_path)
        assert placed.read_text() == tool.BOOTSTRAP
    assert stand_ins(tmp_path) == []
    placed.write_text("real")
    with tool.pip_bootstrap(tmp_path):
        assert placed.read_text() == "real"
    assert placed.read_text() == "real"


def test_stand_in_stays_until_the_last_run_ends(tmp_path: Path) -> None:
    with tool.pip_bootstrap(tmp_path):
        with tool.pip_bootstrap(tmp_path):
            assert len(stand_ins(tmp_path)) == 1
        assert len(stand_ins(tmp_path)) == 1
    assert stand_ins(tmp_path) == []


def test_stand_in_of_a_killed_run_is_used_and_removed(tmp_path: Path) -> None:
    with tool.pip_bootstrap(tmp_path):
        (placed,) = stand_ins(tmp_path)
    placed.write_text(tool.BOOTSTRAP)
    with tool.pip_bootstrap(tmp_path):
        assert stand_ins(tmp_path) == [placed]
    assert stand_ins(tmp_path) == []


def test_stand_in_has_the_name_that_ansible_test_looks_for(tmp_path: Path) -> None:
    source = Path(sysconfig.get_path("purelib"), "ansible_test/_util/target/setup/requirements.py").read_text()
    assert "~/.ansible/test/cache/get_pip_%s.py" in source
    with tool.pip_bootstrap(tmp_path):
        (placed,) = stand_ins(tmp_path)
    assert placed.name.startswith("get_pip_2")


@pytest.mark.parametrize("versions", [["3.9", "3.11", "3.13"], ["3.11"]])
def test_units_run_on_the_oldest_python(versions: list[str]) -> None:
    (call,) = tool.commands("units", versions, ["-v"])
    assert call[call.index("--python") + 1] == versions[0]
    assert call[-1] == "-v"
