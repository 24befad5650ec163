# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which Python a host gets, and how it is unpacked: the scripts are run by sh, in folders in place of a host's."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import types

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.flotilla.cluster.plugins.action import python_push
from ansible_collections.flotilla.cluster.plugins.action.python_push import ActionModule, Found, choose, read_probe

DIRECTORY = "/opt/flotilla/python"
OURS = f"{DIRECTORY}/current/bin/python3"


def test_a_probe_is_read_and_what_is_not_its_own_is_passed_over():
    found = read_probe(
        "Welcome to core-01\npython /usr/bin/python3 3.11.2\nmark abc\npython x\ntools\npython p x.y.z\n"
    )
    assert found == Found({"/usr/bin/python3": "3.11.2"}, "abc", True)
    assert read_probe("") == Found({}, "", False)


@pytest.mark.parametrize(
    ("pythons", "mark", "sha256", "chosen"),
    [
        ({}, "", "", ""),
        ({"/usr/bin/python3": "3.11.2"}, "", "abc", "/usr/bin/python3"),
        ({"/usr/bin/python3": "3.6.8"}, "", "abc", ""),
        ({"/usr/bin/python3": "3.10.0"}, "", "abc", "/usr/bin/python3"),
        ({OURS: "3.11.2", "/usr/bin/python3": "3.11.2"}, "abc", "abc", "/usr/bin/python3"),
        ({OURS: "3.11.2", "/usr/bin/python3": "3.6.8"}, "abc", "abc", OURS),
        ({OURS: "3.11.2"}, "abc", "abc", OURS),
        ({OURS: "3.11.2"}, "abc", "", OURS),
        ({OURS: "3.11.2"}, "abc", "def", ""),
        ({}, "abc", "abc", ""),
    ],
)
def test_the_systems_own_comes_first(pythons, mark, sha256, chosen):
    assert choose(Found(pythons, mark, True), DIRECTORY, "3.9", sha256) == chosen


@pytest.fixture
def archive(tmp_path):
    """Makes an archive whose python3 says a version and nothing else."""

    def make(version, works=True):
        path = tmp_path / f"python-{version}.tar.gz"
        script = (
            f"#!/bin/sh\ncase \"$2\" in *'python current'*) echo python current {version};; *) echo {version};; esac\n"
        )
        data = (script if works else "#!/bin/sh\nexit 3\n").encode()
        with tarfile.open(path, "w:gz") as stream:
            entry = tarfile.TarInfo("python/bin/python3")
            entry.size, entry.mode = len(data), 0o755
            stream.addfile(entry, io.BytesIO(data))
        return str(path)

    return make


@pytest.fixture
def act(tmp_path, monkeypatch):
    """Runs the action; this machine is the host, and has no Python of its own."""
    monkeypatch.setattr(python_push, "PLACES", ())

    def transfer(local, remote):
        shutil.copy(local, remote)
        return remote

    def execute(command, executable):
        done = subprocess.run([executable, "-c", command], capture_output=True, text=True, check=False)
        return {"rc": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

    def make_tmp():
        (tmp_path / "remote").mkdir()
        return str(tmp_path / "remote")

    def run(check_mode=False, **options):
        task = types.SimpleNamespace(
            args={"directory": str(tmp_path / "host"), **options},
            check_mode=check_mode, async_val=0, diff=False, action="", delegate_to=None,
        )  # fmt: skip
        shell = types.SimpleNamespace(tmpdir=str(tmp_path / "remote"), join_path=os.path.join)
        action = ActionModule(task, types.SimpleNamespace(_shell=shell), types.SimpleNamespace(), None, None, None)
        monkeypatch.setattr(action, "_low_level_execute_command", execute)
        monkeypatch.setattr(action, "_transfer_file", transfer)
        monkeypatch.setattr(action, "_make_tmp_path", make_tmp)
        monkeypatch.setattr(action, "_remove_tmp_path", shutil.rmtree)
        return action.run(task_vars={})

    return run


def digest(path):
    with open(path, "rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()


def test_one_is_brought_once_and_replaced_by_another(act, archive, tmp_path):
    first, second = archive("3.11.2"), archive("3.13.0")
    predicted = act(check_mode=True, archive=first, sha256=digest(first))
    assert (predicted["changed"], (tmp_path / "host").exists()) == (True, False)
    made = act(archive=first, sha256=digest(first))
    interpreter = str(tmp_path / "host/current/bin/python3")
    assert made == {"changed": True, "interpreter": interpreter, "version": "3.11.2", "pushed": True}
    assert act(archive=first, sha256=digest(first).upper()) == {**made, "changed": False}
    assert act() == {**made, "changed": False}
    newer = act(archive=second, sha256=digest(second))
    assert (newer["changed"], newer["version"]) == (True, "3.13.0")
    assert sorted(os.listdir(tmp_path / "host")) == sorted([digest(second)[:12], "current"])
    assert not (tmp_path / "remote").exists()


def test_one_that_does_not_work_there_changes_nothing(act, archive, tmp_path):
    good, bad = archive("3.11.2"), archive("3.13.0", works=False)
    act(archive=good, sha256=digest(good))
    with pytest.raises(AnsibleActionFail, match=r"unpacking .* failed on the host with exit code 3"):
        act(archive=bad, sha256=digest(bad))
    assert act(archive=good, sha256=digest(good))["changed"] is False


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"the host has no Python 3.9 or newer \(it has none\): install one"),
        ({"archive": "/nowhere.tar.gz", "sha256": "0" * 64}, "archive /nowhere.tar.gz cannot be read: No such file"),
        ({"archive": "/etc/hostname", "sha256": "0" * 64}, "has the SHA-256 .* nothing was sent"),
        ({"archive": "/etc/hostname", "sha256": "abc"}, "sha256 is 'abc'; give the SHA-256 of /etc/hostname"),
        ({"archive": "/etc/hostname"}, "sha256 is ''"),
        ({"minimum": "three"}, "minimum is 'three'; give a version such as 3.9"),
        (
            {"directory": "/usr/lib/python"},
            "directory is '/usr/lib/python'; give an absolute path that is not below /usr",
        ),
        ({"directory": "python"}, "directory is 'python'"),
    ],
)
def test_what_cannot_work_is_said_in_a_sentence(act, options, said):
    with pytest.raises(AnsibleActionFail, match=said):
        act(**options)


def test_a_host_without_tar(act, archive, monkeypatch):
    path = archive("3.11.2")
    monkeypatch.setattr(python_push, "probe", lambda directory: "echo hello")
    with pytest.raises(AnsibleActionFail, match="no tar or no gzip"):
        act(archive=path, sha256=digest(path))
