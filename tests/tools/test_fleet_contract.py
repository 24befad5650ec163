# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/fleet-contract.md tells the truth: each of upstream's bugs has a test, and the tests that it names are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests/fleet"
DOCUMENT = (ROOT / "docs/fleet-contract.md").read_text(encoding="utf-8")
ROWS = {int(number): rest for number, rest in re.findall(r"^\| (\d+) (\|.*\|)$", DOCUMENT, re.MULTILINE)}


def named_in(module: str) -> set[str]:
    tree = ast.parse((TESTS / f"{module}.py").read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    }


def differences() -> set[str]:
    """The recorded exchanges that ours answers otherwise."""
    tree = ast.parse((TESTS / "test_contract.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DIFFERENCES":
            assert isinstance(node.value, ast.Dict)
            return {ast.literal_eval(key) for key in node.value.keys if key is not None}
    raise AssertionError("test_contract.py has no DIFFERENCES")


def test_all_twelve_are_there() -> None:
    assert sorted(ROWS) == list(range(1, 13))


@pytest.mark.parametrize("number", sorted(ROWS))
def test_the_tests_that_a_bug_names_are_there(number: int) -> None:
    named = re.findall(r"`([^`]+)`", ROWS[number].split("|")[-2])
    assert named
    for name in named:
        case = re.fullmatch(r"test_contract\[(.+)\]", name)
        if case:
            assert case[1] in differences(), name
        else:
            module, _colons, test = name.partition("::")
            assert test in named_in(module), name
