# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.flotilla.cluster.plugins.module_utils import _seal


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    (tmp_path / "folder").mkdir()
    return [str(tmp_path / name) for name in ("a", "b", "folder")]


@pytest.fixture
def seal(tmp_path: Path, files: list[str]) -> str:
    path = tmp_path / ".seal"
    path.write_text(_seal.text("wish", 12.5, files))
    return str(path)


def test_what_nobody_touched_is_intact(seal: str) -> None:
    assert _seal.read(seal) == {"wish": "wish", "until": 12.5, "intact": True}


@pytest.mark.parametrize(
    "touch",
    [
        pytest.param(lambda path: Path(path).write_text("other"), id="content"),
        pytest.param(lambda path: os.chmod(path, 0o600), id="mode"),
        pytest.param(os.unlink, id="gone"),
        pytest.param(lambda path: os.chmod(os.path.dirname(path) + "/folder", 0o700), id="folder"),
    ],
)
def test_what_was_touched_is_not(seal: str, files: list[str], touch) -> None:
    os.chmod(files[1], 0o644)
    Path(seal).write_text(_seal.text("wish", 12.5, files))
    touch(files[1])
    assert not _seal.read(seal)["intact"]


def test_what_was_missing_is_never_intact(seal: str, files: list[str]) -> None:
    Path(seal).write_text(_seal.text("wish", 1.0, [*files, "/nonexistent"]))
    assert not _seal.read(seal)["intact"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"wish": "", "until": "x", "files": {}}', '{"files": []}'])
def test_a_seal_that_is_none_is_broken(seal: str, text: str) -> None:
    Path(seal).write_text(text)
    assert _seal.read(seal) == _seal.NONE


def test_no_seal(tmp_path: Path) -> None:
    assert _seal.read(str(tmp_path / ".seal")) == _seal.NONE
