# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine can be asked about a unit, and which program answers it. Pure; :mod:`.inquiry` does the asking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .unitname import UnitNameError, validate_unit_name

OUTPUTS = ("short", "short-iso", "short-precise", "short-monotonic", "cat", "json", "verbose", "export", "with-unit")


@dataclass(frozen=True)
class Question:
    """``what`` is status, journal or restart; ``lines`` and ``output`` are journalctl's; ``follow`` never ends."""

    what: str
    unit: str
    lines: int = 10
    output: str = "short"
    follow: bool = False


@dataclass(frozen=True)
class Answer:
    """A piece of text; the last piece has the exit status of what was run."""

    text: str
    code: int | None = None


class QuestionError(ValueError):
    """A question that no machine will answer."""


def command(question: Question) -> list[str]:
    """The program that answers; raises :class:`QuestionError` for anything but the few allowed ones."""
    try:
        validate_unit_name(question.unit)
    except UnitNameError as exc:
        raise QuestionError(str(exc)) from None
    if question.what == "status":
        return ["systemctl", "status", "--full", "--no-pager", "--", question.unit]
    if question.what == "restart":
        return ["systemctl", "restart", "--", question.unit]
    if question.what != "journal":
        raise QuestionError(f"a machine cannot be asked for {question.what!r}; allowed are status, journal and restart")
    if question.output not in OUTPUTS:
        raise QuestionError(f"journal output {question.output!r} is unknown; allowed are {', '.join(OUTPUTS)}")
    if not 0 <= question.lines <= 100_000:
        raise QuestionError(f"the number of journal lines is {question.lines}; allowed are 0 to 100000")
    words = ["journalctl", "--no-pager", f"--output={question.output}", f"--lines={question.lines}"]
    return [*words, *(["--follow"] if question.follow else []), f"--unit={question.unit}"]


def read_question(record: Mapping[str, Any]) -> tuple[Question, int]:
    """A question and its lease out of what etcd holds."""
    try:
        question = Question(
            what=str(record["what"]),
            unit=str(record["unit"]),
            lines=int(record.get("lines", 10)),
            output=str(record.get("output", "short")),
            follow=record.get("follow") is True,
        )
        return question, int(record["lease"])
    except (KeyError, TypeError, ValueError) as exc:
        raise QuestionError(f"not a question: {exc!r}") from None
