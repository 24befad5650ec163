# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this plugin util is PRIVATE to the collection.
# It can change in breaking ways at any time.

"""Runs many calls of modules in one process on the controller.

A call of a module as a task of its own costs 0.7 seconds of CPU with those of community.crypto, of
which the work is 0.015: the rest is packing, unpacking and compiling. C(Runner) starts one child
process that imports the modules as they are installed and runs their main() once a call. The child
keeps what modules do to their process (exits, standard output, temporary folders) out of Ansible's.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import subprocess
import sys
import typing as t

Result = dict[str, t.Any]


class RunnerError(Exception):
    """A module failed, or could not be run; the text is its message."""


class Runner:
    """Starts the child on entry and ends it on exit. Calls run one after the other."""

    def __init__(self, paths: t.Sequence[str]) -> None:
        """
        :param paths: folders that hold C(ansible_collections)
        """
        self._paths = list(paths)
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> Runner:
        self._child = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, json.dumps(self._paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.communicate()  # closes its input, which ends it

    def call(self, module: str, arguments: t.Mapping[str, t.Any]) -> Result:
        """Run one module.

        :param module: full name, such as C(community.crypto.openssl_csr_pipe)
        :returns: what the module returned
        :raises RunnerError: when it failed
        """
        child = self._child
        if child is None or child.stdin is None or child.stdout is None:
            raise RunnerError("the runner has not been started")
        answer = ""
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(json.dumps({"module": module, "arguments": arguments}) + "\n")
            child.stdin.flush()
            answer = child.stdout.readline()
        if not answer:
            _out, said = child.communicate()
            raise RunnerError(f"{module} could not be run: {said.strip()[-1000:]}")
        result: Result = json.loads(answer)
        if result.get("failed"):
            raise RunnerError(f"{module}: {result.get('msg', 'failed without a message')}")
        return result


def _arguments_set(arguments: dict[str, t.Any]) -> contextlib.AbstractContextManager[None]:
    """Make the next module of this process see these arguments."""
    try:
        from ansible.module_utils.testing import patch_module_args
    except ImportError:  # ansible-core 2.18
        from ansible.module_utils import basic

        basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode()
        return contextlib.nullcontext()
    return t.cast("contextlib.AbstractContextManager[None]", patch_module_args(arguments))


def run_module(name: str, arguments: dict[str, t.Any]) -> Result:
    """Run a module in this process and return what it printed."""
    namespace, collection, module = name.split(".")
    loaded = importlib.import_module(f"ansible_collections.{namespace}.{collection}.plugins.modules.{module}")
    printed = io.StringIO()
    with (
        _arguments_set(arguments),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        loaded.main()
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("{")]
    if not lines:
        return {"failed": True, "msg": f"it printed no result but {printed.getvalue()[:200]!r}"}
    result: Result = json.loads(lines[-1])
    result.pop("invocation", None)
    return result


def serve(paths: t.Sequence[str]) -> None:
    """Answer one line with one line until the input ends."""
    sys.path[:0] = [path for path in paths if path not in sys.path]
    for line in sys.stdin:
        job = json.loads(line)
        try:
            result = run_module(job["module"], job["arguments"])
        except Exception as exc:  # whatever a module lets through is its failure, not the child's
            result = {"failed": True, "msg": f"{type(exc).__name__}: {exc}"}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
