# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions to a machine by way of a real etcd; the programs that answer are scripts in PATH."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.etcd import EtcdProcess, etcd_or_skip

from flotilla_fleet import inquiry
from flotilla_fleet.etcd import Etcd, op_put
from flotilla_fleet.inquiry import Desk, ask
from flotilla_fleet.question import Answer, Question, QuestionError, command
from flotilla_fleet.registry import Keys
from flotilla_fleet.store import StoreError

ME = "a" * 32
JOURNALCTL = """#!/bin/sh
echo "args: $*"
case "$*" in *--follow*) n=0; while [ $n -lt 200 ]; do echo "line $n"; n=$((n+1)); sleep 0.05; done; echo $$ > %s;; esac
exit 0
"""


@pytest.fixture(scope="module")
def etcd_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    yield from etcd_or_skip(tmp_path_factory.mktemp("etcd"))


@pytest.fixture
async def etcd(
    etcd_process: EtcdProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Etcd, Keys]]:
    scripts = {"journalctl": JOURNALCTL % (tmp_path / "ended"), "systemctl": "#!/bin/sh\necho $*\nexit 3\n"}
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    client, keys = Etcd([etcd_process.url]), Keys(f"/{tmp_path.name}/")
    desk = asyncio.create_task(Desk(client, keys, ME).run())
    await asyncio.sleep(0.1)
    yield client, keys
    desk.cancel()
    await asyncio.gather(desk, return_exceptions=True)
    await client.close()


async def whole(etcd: tuple[Etcd, Keys], question: Question) -> Answer:
    text, code = "", None
    async for answer in ask(*etcd, ME, question):
        text += answer.text
        code = answer.code
    return Answer(text, code)


async def test_status_and_its_exit_code(etcd: tuple[Etcd, Keys]) -> None:
    answer = await whole(etcd, Question("status", "u.service"))
    assert answer == Answer("status --full --no-pager -- u.service\n", 3)


async def test_journal_lines(etcd: tuple[Etcd, Keys]) -> None:
    answer = await whole(etcd, Question("journal", "u.service", lines=7, output="cat"))
    assert answer == Answer("args: --no-pager --output=cat --lines=7 --unit=u.service\n", 0)


async def test_following_ends_with_the_asker_and_leaves_nothing(etcd: tuple[Etcd, Keys], tmp_path: Path) -> None:
    seen = ""
    answers = ask(*etcd, ME, Question("journal", "u.service", follow=True))
    async for answer in answers:
        seen += answer.text
        if "line 5" in seen:
            break
    await answers.aclose()  # type: ignore[attr-defined]
    await asyncio.sleep(0.3)
    client, keys = etcd
    assert not (await client.prefix(keys.prefix)).kvs
    assert not (tmp_path / "ended").exists()


async def test_a_machine_that_is_not_there(etcd: tuple[Etcd, Keys], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inquiry, "FIRST_ANSWER_SECONDS", 0.3)
    with pytest.raises(StoreError, match="did not answer"):
        async for _answer in ask(*etcd, "b" * 32, Question("status", "u.service")):
            pass


@pytest.mark.parametrize(
    "question", [Question("restart", "u.service"), Question("journal", "u.service", 0, "cat", follow=True)]
)
async def test_what_takes_long_is_not_taken_for_a_machine_that_is_gone(
    etcd: tuple[Etcd, Keys], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, question: Question
) -> None:
    for name in ("systemctl", "journalctl"):
        (tmp_path / name).write_text("#!/bin/sh\nsleep 1.5\necho late\nexit 4\n")
    monkeypatch.setattr(inquiry, "FIRST_ANSWER_SECONDS", 1.0)
    assert await whole(etcd, question) == Answer("late\n", 4)


async def test_garbage_questions_are_survived(etcd: tuple[Etcd, Keys]) -> None:
    client, keys = etcd
    for number, text in enumerate(["", "[]", "{}", '{"what": "status", "unit": 5, "lease": "x"}', "\x00"]):
        await client.txn([], [op_put(f"{keys.prefix}ask/{ME}/{number}", text)])
    assert (await whole(etcd, Question("status", "u.service"))).code == 3


@pytest.mark.parametrize(
    "question",
    [
        Question("rm", "u.service"),
        Question("status", "-M x.service"),
        Question("status", "u.service; reboot"),
        Question("journal", "u.service", output="../x"),
        Question("journal", "u.service", lines=-1),
        Question("journal", "u.service", lines=10**9),
    ],
)
def test_only_the_few_allowed_programs_are_run(question: Question) -> None:
    with pytest.raises(QuestionError):
        command(question)
