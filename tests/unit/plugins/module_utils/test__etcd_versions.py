# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.flotilla.cluster.plugins.filter.etcd_release import etcd_release
from ansible_collections.flotilla.cluster.plugins.filter.etcd_upgrade_plan import etcd_upgrade_plan
from ansible_collections.flotilla.cluster.plugins.module_utils import _etcd_versions as versions


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3.6.14", (3, 6, 14)),
        ("v3.7.1", (3, 7, 1)),
        ("3.4.23-4+b4", (3, 4, 23)),
        ("3.5.30+dfsg-2", (3, 5, 30)),
        ("3.6", (3, 6, 0)),
        ("3.6.0-rc.1", (3, 6, 0)),
        ("", None),
        ("new", None),
        ("3", None),
        ("3.6.14.1x", (3, 6, 14)),
    ],
)
def test_versions_are_read(text, numbers):
    assert versions.parse(text) == numbers


@pytest.mark.parametrize("version", ["3.5.33", "3.6.14", "3.6.16", "3.7.1", "3.8.0", "4.0.0", "unknown"])
def test_safe_versions_get_no_warning(version):
    assert versions.floor_warning(version) == ""


@pytest.mark.parametrize(
    ("version", "floor"),
    [("3.4.23-4+b4", "3.5.33"), ("3.5.30-2", "3.5.33"), ("3.6.13", "3.6.14"), ("3.7.0", "3.7.1"), ("3.3.25", "3.5.33")],
)
def test_others_are_warned_of(version, floor):
    assert versions.floor_warning(version).startswith(f"etcd {version} is older than {floor}: it may revoke leases")


def test_what_is_not_given_comes_from_the_table():
    found = etcd_release("", "aarch64", mirror="https://mirror.example/etcd/")
    assert found == {
        "version": "3.6.14",
        "url": "https://mirror.example/etcd/v3.6.14/etcd-v3.6.14-linux-arm64.tar.gz",
        "sha256": versions.ARCHIVES["3.6.14", "arm64"],
        "warning": "",
    }
    assert etcd_release("", "x86_64")["sha256"] == versions.ARCHIVES["3.6.14", "amd64"]
    given = etcd_release("3.4.5", "x86_64", url="/tmp/x.tar.gz", sha256="ab", mirror="https://m")
    assert (given["version"], given["url"], given["sha256"]) == ("3.4.5", "/tmp/x.tar.gz", "ab")
    assert "is older than" in given["warning"]
    assert etcd_release("3.6.99")["sha256"] == ""


def test_every_sum_is_one_and_every_default_has_one():
    assert all(len(digest) == 64 and int(digest, 16) for digest in versions.ARCHIVES.values())
    assert len(set(versions.ARCHIVES.values())) == len(versions.ARCHIVES)
    for architecture in ("amd64", "arm64"):
        assert versions.archive_sum(versions.DEFAULT, architecture)
    assert versions.floor_warning(versions.DEFAULT) == ""


@pytest.mark.parametrize(
    ("version", "flag", "words"),
    [
        ("3.4.23", "max-requst-bytes", "no etcd from 3.4 to 3.7 knows: did you mean max-request-bytes?"),
        ("3.4.23", "zzz", "no etcd from 3.4 to 3.7 knows: correct it or leave it out"),
        ("3.4.23", "tls-min-version", "which etcd knows from 3.5 on, not 3.4.23"),
        ("3.5.33", "feature-gates", "which etcd knows from 3.6 on, not 3.5.33"),
        ("3.6.14", "enable-v2", "which etcd knows up to 3.5, not 3.6.14: write nothing: the v2 API is gone"),
        (
            "3.7.1",
            "experimental-initial-corrupt-check",
            "up to 3.6, not 3.7.1: write feature-gates: InitialCorruptCheck",
        ),
        ("3.7.1", "experimental-compaction-batch-limit", "not 3.7.1: write compaction-batch-limit"),
        ("3.7.1", "proxy", "up to 3.5, not 3.7.1: leave it out"),
        ("3.6.14", "data-dir", "which role etcd sets: use its own variable"),
        ("", "max-requst-bytes", "did you mean max-request-bytes?"),
    ],
)
def test_options_that_a_version_does_not_know(version, flag, words):
    (problem,) = versions.flag_problems(version, {flag: "x"})
    assert problem.startswith(f"etcd_extra_flags has {flag}")
    assert words in problem


def test_options_that_it_knows():
    assert versions.flag_problems("3.4.23", ["enable-v2", "max-request-bytes", "--snapshot-count"]) == []
    assert versions.flag_problems("3.6.14", ["experimental-initial-corrupt-check", "feature-gates"]) == []
    # this table may be older than etcd; what it lacks there is for etcd to refuse
    assert versions.flag_problems("3.9.0", ["feature-gates"]) == []


def members(*found):
    return [{"name": f"m{number}", "id": str(number), "version": version} for number, version in enumerate(found, 1)]


@pytest.mark.parametrize(
    ("present", "target", "flush"),
    [
        (("3.4.23",) * 3, "3.5.33", False),
        (("3.5.32", "3.5.33", "3.5.33"), "3.6.14", True),
        (("3.6.14",) * 3, "3.7.1", True),
        # one member of three is done; the play was killed
        (("3.6.14", "3.5.33", "3.5.33"), "3.6.14", True),
        # and back, as long as not all are done
        (("3.6.14", "3.5.33", "3.5.33"), "3.5.33", False),
        (("3.6.14",) * 3, "3.6.16", False),
        (("3.6.16",) * 3, "3.6.14", False),
        (("3.4.23",), "3.4.23", False),
    ],
)
def test_steps_that_etcd_takes(present, target, flush):
    plan = etcd_upgrade_plan(members(*present), target)
    assert (plan["problems"], plan["flush"]) == ([], flush)
    assert plan["needed"] == any(version != target for version in present)


@pytest.mark.parametrize(
    ("present", "target", "words"),
    [
        (("3.4.23",) * 3, "3.6.14", "run etcd 3.4, and etcd goes up one minor version at a time: go to 3.5.33 first"),
        (("3.5.33", "3.4.23"), "3.6.14", "m2 run etcd 3.4, and etcd goes up one minor version at a time"),
        (("3.5.33",) * 3, "3.7.1", "go to 3.6.14 first"),
        (("3.5.16", "3.5.33", "3.5.33"), "3.6.14", "m1 run etcd 3.5.16: before 3.6 all members need 3.5.32 at least"),
        (("3.6.10",) * 3, "3.7.1", "need 3.6.11 at least"),
        (
            ("3.6.14",) * 3,
            "3.5.33",
            "its data are not readable for 3.5.33: stay on 3.6 or later, or restore a snapshot",
        ),
        (("3.6.14",) * 3, "2.3.8", "not readable"),
        (("3.6.14",) * 3, "4.0.0", "not readable"),
        (("3.6.14", ""), "3.6.16", "the version of m2 is not known: bring all members up first"),
        (("3.6.14",), "newest", "the version to go to is 'newest'"),
    ],
)
def test_steps_that_it_does_not_take(present, target, words):
    plan = etcd_upgrade_plan(members(*present), target)
    assert words in plan["problems"][0]
    assert plan["flush"] is False
