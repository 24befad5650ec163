# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fault tests: ``make test-faults``, as root on a Debian machine.

One cluster of three hosts is deployed for the session; before each test everything the test before did is undone.
``FAULTS_KEEP=1`` leaves the cluster for the next run, ``FAULTS_PLAY=0`` then does without the play.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest
from faults import lab as labs
from faults.lab import Lab


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, as unknown ones are errors."""
    config.addinivalue_line("markers", "quick: takes little time; part of make test")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Keep logs as soon as a test has failed, before anything is cleaned up."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    cluster = getattr(item, "funcargs", {}).get("lab")
    if report.when == "call" and report.failed and isinstance(cluster, Lab):
        folder = cluster.keep(item.name)
        report.sections.append(("kept", f"logs, histories and the witness log are in {folder}"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("local hosts are made by root")
    try:
        yield labs.make()
    finally:
        if not os.environ.get("FAULTS_KEEP"):
            labs.remove()


@pytest.fixture
def lab(cluster: Lab) -> Iterator[Lab]:
    cluster.reset()
    yield cluster
    cluster.stop_recording()
    cluster.heal()


@pytest.fixture
def seed() -> random.Random:
    """Chance that can be had again: FAULTS_SEED=… repeats a run."""
    number = int(os.environ.get("FAULTS_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
    print(f"FAULTS_SEED={number}", flush=True)
    return random.Random(number)
