# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible.errors import AnsibleLookupError
from ansible.parsing.dataloader import DataLoader
from ansible_collections.flotilla.cluster.plugins.lookup.file_tree import LookupModule
from ansible_collections.flotilla.cluster.plugins.module_utils import _host_spec as spec


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "app/sub/__pycache__").mkdir(parents=True)
    (tmp_path / "app/.git").mkdir()
    (tmp_path / "app/a.py").write_text("a = 1\n")
    (tmp_path / "app/sub/b.py").write_text("b = 'ä'\r\n", encoding="utf-8", newline="")
    (tmp_path / "app/sub/__pycache__/b.py").write_text("no")
    (tmp_path / "app/.git/c.py").write_text("no")
    (tmp_path / "app/notes.txt").write_text("no")
    (tmp_path / "shared.py").write_text("shared\n")
    (tmp_path / "app/linked.py").symlink_to("../shared.py")
    return tmp_path / "app"


def run(folder, **options):
    """The lookup as the plugin loader would make it; the loader knows no collections in a test."""
    lookup = LookupModule(loader=DataLoader())
    lookup.set_options = lambda **_options: None
    lookup.get_option = {"pattern": "*", "prefix": "", **options}.get
    return lookup.run([str(folder)], variables={})


def test_files_by_relative_path(tree):
    assert run(tree, pattern="*.py", prefix="pkg") == [
        {"pkg/a.py": "a = 1\n", "pkg/linked.py": "shared\n", "pkg/sub/b.py": "b = 'ä'\r\n"}
    ]


def test_all_files(tree):
    assert set(run(tree)[0]) == {"a.py", "linked.py", "notes.txt", "sub/b.py"}


def test_what_cannot_be_read_is_one_sentence(tree):
    with pytest.raises(AnsibleLookupError, match="there is no folder"):
        run(tree / "missing")
    with pytest.raises(AnsibleLookupError, match=r"no file in .* matches"):
        run(tree, pattern="*.rb")
    (tree / "binary.py").write_bytes(b"\xff\xfe")
    with pytest.raises(AnsibleLookupError, match="cannot read"):
        run(tree)


def test_packed_is_what_host_service_unpacks(tree):
    [packed] = run(tree, packed=True)
    assert run(tree, packed=True) == [packed]
    files = {"root": "/usr/lib/app", "link": "current", "compile": False, "restart": True, "files": None}
    assert spec._tree({**files, "packed": packed}) == spec._tree({**files, "files": run(tree)[0]})


def test_a_folder_of_this_collection():
    [found] = run("fleet/flotilla_fleet", collection=True, pattern="scheduler.py")
    assert list(found) == ["scheduler.py"]
