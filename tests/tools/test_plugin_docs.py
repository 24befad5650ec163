# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `ansible-doc` shows of each module and role, and whether its examples could be run."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
MODULES = sorted(path.stem for path in ROOT.glob("plugins/modules/[a-z]*.py"))
FILTERS = sorted(path.stem for path in ROOT.glob("plugins/filter/[a-z]*.py"))
LOOKUPS = sorted(path.stem for path in ROOT.glob("plugins/lookup/[a-z]*.py"))
ROLES = sorted(path.parent.name for path in ROOT.glob("roles/*/tasks"))
# keys of a task that name no module
TASK_KEYWORDS = {
    "name", "register", "when", "loop", "loop_control", "vars", "delegate_to", "run_once", "become", "changed_when",
    "failed_when", "until", "retries", "delay", "no_log", "check_mode", "diff", "notify", "tags", "environment",
}  # fmt: skip


@functools.cache
def documentation(kind: str, names: tuple[str, ...]) -> dict[str, Any]:
    """`ansible-doc --json` of these plugins, by full name; fragments are merged in."""
    command = [Path(sys.executable).with_name("ansible-doc"), "--type", kind, "--json"]
    done = subprocess.run(
        [*command, *(f"flotilla.cluster.{name}" for name in names)], cwd=ROOT, check=True, capture_output=True
    )
    # ansible-core warns of a collection within itself, which is not ours to mend
    assert "flotilla" not in done.stderr.decode()
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def tasks(example: Any) -> Iterator[dict[str, Any]]:
    """All tasks of an example: a list of tasks, or of plays."""
    for item in example:
        if "hosts" in item:
            for key in ("pre_tasks", "tasks", "post_tasks", "handlers"):
                yield from tasks(item.get(key, []))
        elif "block" in item:
            yield from tasks([*item["block"], *item.get("rescue", []), *item.get("always", [])])
        else:
            yield item


def test_there_are_modules_and_roles() -> None:
    assert MODULES
    assert ROLES


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module_use_its_options(name: str) -> None:
    full_name = f"flotilla.cluster.{name}"
    shown = documentation("module", tuple(MODULES))[full_name]
    options = shown["doc"]["options"]
    used = 0
    for task in tasks(yaml.safe_load(shown["examples"])):
        assert task.get("name"), task
        modules = set(task) - TASK_KEYWORDS
        assert len(modules) == 1, f"not one module in {task}"
        assert "." in next(iter(modules)), f"no full name in {task}"
        if full_name not in task:
            continue
        used += 1
        given = set(task[full_name] or {})
        assert given <= set(options), f"unknown options in {task}"
        required = {option for option, what in options.items() if what.get("required")}
        assert required <= given, f"required options are missing in {task}"
    assert used


@pytest.mark.parametrize("name", MODULES)
def test_module_says_what_it_returns_and_supports(name: str) -> None:
    shown = documentation("module", tuple(MODULES))[f"flotilla.cluster.{name}"]
    assert shown["return"]
    assert {"check_mode", "diff_mode", "idempotent"} <= set(shown["doc"]["attributes"])


@pytest.mark.parametrize("name", FILTERS)
def test_filter_has_examples(name: str) -> None:
    shown = documentation("filter", tuple(FILTERS))[f"flotilla.cluster.{name}"]
    assert yaml.safe_load(shown["examples"])


@pytest.mark.parametrize("name", LOOKUPS)
def test_lookup_has_examples_and_says_what_it_returns(name: str) -> None:
    shown = documentation("lookup", tuple(LOOKUPS))[f"flotilla.cluster.{name}"]
    assert shown["return"]["_list"]
    for task in tasks(yaml.safe_load(shown["examples"])):
        assert task.get("name"), task


@pytest.mark.parametrize("name", ["etcd", "etcd_prefix"])
def test_the_lookups_of_etcd_take_what_modules_take_also_from_variables(name: str) -> None:
    options = documentation("lookup", tuple(LOOKUPS))[f"flotilla.cluster.{name}"]["doc"]["options"]
    modules = documentation("module", tuple(MODULES))["flotilla.cluster.etcd_kv"]["doc"]["options"]
    for option in ("endpoints", "ca_cert", "client_cert", "client_key", "username", "password", "timeout"):
        assert options[option]["vars"] == [{"name": f"flotilla_etcd_{option}"}]
        assert options[option].get("default") == modules[option].get("default")
        assert options[option]["description"]


@pytest.mark.parametrize("name", ROLES)
def test_role_is_shown(name: str) -> None:
    shown = documentation("role", tuple(ROLES))[f"flotilla.cluster.{name}"]
    for entry_point in shown["entry_points"].values():
        assert entry_point["short_description"]
