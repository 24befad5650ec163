# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking another machine about a unit, by way of etcd: status, journal, restart.

Machines reach each other through etcd anyway, with mutual TLS and nothing more to open. Who asks writes
``ask/<machine>/<id>`` under a short lease; the machine answers in ``answer/<machine>/<id>/<number>`` under the same
lease. When the asker goes away, the lease ends, and with it question, answer, and whatever was still running for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import asdict

from . import etcd as e
from .presence import Lease
from .question import Answer, Question, QuestionError, command, read_question
from .registry import Keys, Registry
from .store import StoreError

log = logging.getLogger(__name__)

LEASE_SECONDS = 15
CHUNK = 256 * 1024
"""Bytes of text in one answer; etcd takes requests of 1.5 MiB."""
GATHER = 0.1
FIRST_ANSWER_SECONDS = 10.0


class Desk:
    """Answers the questions to one machine."""

    def __init__(self, client: e.Etcd, keys: Keys, machine_id: str) -> None:
        self.etcd = client
        self.prefix = f"{keys.prefix}ask/{machine_id}/"
        self.answers = f"{keys.prefix}answer/{machine_id}/"
        self._open: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Serve for ever; a broken watch drops nothing but questions whose asker will not wait any longer."""
        delay = 0.2
        while True:
            try:
                listing = await self.etcd.prefix(self.prefix)
                for kv in listing.kvs:
                    self._take(kv)
                delay = 0.2
                async for batch in self.etcd.watch(self.prefix, listing.revision + 1):
                    for change in batch:
                        if change.kv is not None:
                            self._take(change.kv)
                        else:
                            self._drop(change.key.removeprefix(self.prefix))
            except e.EtcdError as exc:
                log.debug("cannot watch for questions: %s", exc)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)

    def _take(self, kv: e.KV) -> None:
        number = kv.key.removeprefix(self.prefix)
        if number in self._open:
            return
        task = asyncio.create_task(self._serve(number, kv.value))
        self._open[number] = task
        task.add_done_callback(lambda _task: self._open.pop(number, None))

    def _drop(self, number: str) -> None:
        task = self._open.get(number)
        if task is not None:
            task.cancel()

    async def _serve(self, number: str, value: bytes) -> None:
        try:
            question, lease = read_question(json.loads(value))
        except (QuestionError, ValueError) as exc:
            log.warning("question %s: %s", number, exc)
            return
        with suppress(e.EtcdError):
            count = 0
            if question.follow or question.what == "restart":
                # May take long: an empty piece tells at once that the machine is there.
                await self._put(number, count, Answer(""), lease)
                count = 1
            async with aclosing(run_question(question)) as answers:
                async for answer in answers:
                    await self._put(number, count, answer, lease)
                    count += 1

    async def _put(self, number: str, count: int, answer: Answer, lease: int) -> None:
        key = f"{self.answers}{number}/{count:08d}"
        await self.etcd.txn([], [e.op_put(key, json.dumps(asdict(answer)), lease)])


async def run_question(question: Question) -> AsyncGenerator[Answer, None]:
    """Run what answers the question on this machine and give its output in pieces."""
    try:
        words = command(question)
        process = await asyncio.create_subprocess_exec(
            *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, stdin=asyncio.subprocess.DEVNULL
        )
    except (QuestionError, OSError) as exc:
        yield Answer(f"{exc}\n", 2)
        return
    assert process.stdout is not None
    try:
        while data := await process.stdout.read(CHUNK):
            if question.follow:
                # A burst of lines becomes one write, not one for each.
                await asyncio.sleep(GATHER)
            yield Answer(data.decode("utf-8", "replace"))
        yield Answer("", await process.wait())
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def ask(client: e.Etcd, keys: Keys, machine_id: str, question: Question) -> AsyncIterator[Answer]:
    """Ask a machine; the pieces of its answer, the last with an exit status.

    Raises :class:`QuestionError` for a question that makes no sense and :class:`StoreError` when etcd or the machine
    does not answer.
    """
    command(question)
    number = secrets.token_hex(8)
    try:
        lease = await Lease.grant(client, LEASE_SECONDS)
        keeper = asyncio.create_task(lease.keep())
        try:
            record = json.dumps({**asdict(question), "lease": str(lease.id)}, sort_keys=True)
            asked = await client.txn([], [e.op_put(f"{keys.prefix}ask/{machine_id}/{number}", record, lease.id)])
            async for answer in _answers(
                client, f"{keys.prefix}answer/{machine_id}/{number}/", asked.revision, machine_id
            ):
                yield answer
                if answer.code is not None:
                    break
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            with suppress(e.EtcdError):
                await client.lease_revoke(lease.id)
    except e.EtcdError as exc:
        raise StoreError(str(exc)) from None


async def _answers(client: e.Etcd, prefix: str, revision: int, machine_id: str) -> AsyncIterator[Answer]:
    batches = client.watch(prefix, revision)
    first = True
    while True:
        try:
            async with asyncio.timeout(FIRST_ANSWER_SECONDS if first else None):
                batch = await anext(batches)
        except TimeoutError:
            raise StoreError(f"machine {machine_id} did not answer in {FIRST_ANSWER_SECONDS:.0f} s") from None
        for change in batch:
            if change.kv is None:
                continue
            first = False
            record = json.loads(change.kv.value)
            yield Answer(str(record.get("text", "")), record.get("code"))


class AskingRegistry(Registry):
    """The registry as the API sees it: what etcd holds, and what machines say when they are asked."""

    def ask(self, machine: str, question: Question) -> AsyncIterator[Answer]:
        return ask(self.etcd, self.keys, machine, question)
