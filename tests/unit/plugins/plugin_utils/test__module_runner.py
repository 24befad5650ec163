# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.flotilla.cluster.plugins.plugin_utils._module_runner import Runner, RunnerError

OK = """
from ansible.module_utils.basic import AnsibleModule
def main():
    module = AnsibleModule({"text": {}, "times": {"type": "int"}})
    if module.params["text"] == "exit":
        raise SystemExit(3)
    if module.params["text"] == "die":
        import os
        os._exit(7)
    if module.params["text"] == "raise":
        raise ValueError("not that")
    if module.params["text"] == "fail":
        module.fail_json(msg="it did not work")
    print("noise")
    module.exit_json(answer=module.params["text"] * module.params["times"])
"""


@pytest.fixture
def runner(tmp_path):
    modules = tmp_path / "ansible_collections/test/some/plugins/modules"
    modules.mkdir(parents=True)
    (modules / "echo.py").write_text(OK)
    with Runner([str(tmp_path)]) as started:
        yield started


def test_many_calls_in_one_process(runner):
    assert [runner.call("test.some.echo", {"text": "a", "times": n})["answer"] for n in (1, 2, 3)] == ["a", "aa", "aaa"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fail", "test.some.echo: it did not work"),
        ("raise", "test.some.echo: ValueError: not that"),
        ("exit", "test.some.echo: it printed no result"),
    ],
)
def test_a_module_that_fails(runner, text, words):
    with pytest.raises(RunnerError, match=words):
        runner.call("test.some.echo", {"text": text, "times": 1})
    assert runner.call("test.some.echo", {"text": "a", "times": 1})["answer"] == "a"


def test_a_module_that_is_not_there(runner):
    with pytest.raises(RunnerError, match=r"test\.some\.other: ModuleNotFoundError"):
        runner.call("test.some.other", {})


def test_a_child_that_dies(runner):
    with pytest.raises(RunnerError, match=r"test\.some\.echo could not be run"):
        runner.call("test.some.echo", {"text": "die", "times": 1})


def test_a_runner_that_was_not_started():
    with pytest.raises(RunnerError, match="has not been started"):
        Runner([]).call("test.some.echo", {})
