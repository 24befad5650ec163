# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table in tests/faults/README.md tells the truth: each fault has its tests, and each test is in it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "faults"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
WANTED = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 16, 17, 18, 19, 20, 21, 22, 25, 26}
"""The faults that this suite is about."""


def faults_tests() -> dict[str, bool]:
    """Name of each test of a fault to whether it is a quick one."""
    found = {}
    for path in sorted(FOLDER.glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and re.match(r"test_f\d+_", node.name):
                found[node.name] = any(ast.unparse(mark) == "pytest.mark.quick" for mark in node.decorator_list)
    return found


def rows() -> dict[str, bool]:
    """The same as the table has it."""
    lines = re.findall(r"^\|[^|]*\| `(test_f\d+_\w+)` \|[^|]*\| *(yes|) *\|$", README, re.MULTILINE)
    assert len({name for name, _quick in lines}) == len(lines), "a test is in the table twice"
    return {name: quick == "yes" for name, quick in lines}


def test_every_fault_has_a_test_with_its_number() -> None:
    assert {int(re.match(r"test_f(\d+)_", name)[1]) for name in faults_tests()} == WANTED  # type: ignore[index]


def test_the_table_is_complete() -> None:
    assert rows() == faults_tests()


def test_faults_stand_at_the_number_of_their_tests() -> None:
    fault = 0
    for first, number in re.findall(r"^\|([^|]*)\| `test_f(\d+)_", README, re.MULTILINE):
        begun = re.match(r" F(\d+) ", first)
        fault = int(begun[1]) if begun else fault
        assert fault == int(number), first


def test_every_variant_is_in_its_table_and_makes_a_test_fail_that_is_there() -> None:
    table = re.findall(r"^\|[^|]*\| `(\w+)\.py` \| `(\w+)` \| (\w\d) \|$", README, re.MULTILINE)
    broken = {p.stem for p in (FOLDER / "variants").glob("*.py") if '"""Broken: ' in p.read_text(encoding="utf-8")}
    assert {variant for variant, _test, _invariant in table} == broken
    source = ast.parse((FOLDER / "test_variants.py").read_text(encoding="utf-8"))
    seen = set()
    for node in source.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            text = ast.unparse(node)
            seen |= {
                (variant, test, invariant)
                for variant, test, invariant in table
                if f"'{variant}'" in text and ast.get_docstring(node) == test and f"'{invariant}' in caught" in text
            }
    assert seen == set(table)
    assert {test for _variant, test, _invariant in table} <= set(faults_tests())
