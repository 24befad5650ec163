# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an etcd cluster runs out of: sentences for what exceeds a limit, and none for what does not."""

from __future__ import annotations

import datetime

import pytest

pytest.importorskip("requests")

from ansible_collections.flotilla.cluster.plugins.module_utils import _etcd_check as check
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_cluster import Member, Status, View
from ansible_collections.flotilla.cluster.plugins.module_utils._http import OptionError

NOW = datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.timezone.utc)
LIMITS = check.Limits(certificate_days=21, authority_days=90, quota=0.8, disk=0.85)
GIB = 1 << 30


def ends(days, *, authority=False):
    return check.Certificate("/pki/a.crt", authority, NOW + datetime.timedelta(days=days))


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        (ends(21), None),
        (ends(20.9), "the certificate /pki/a.crt ends on 2026-12-14, in 21 days, and the limit is 21: renew it"),
        (ends(-1), "the certificate /pki/a.crt ended on 2026-11-22, and the limit is 21: renew it"),
        (ends(90, authority=True), None),
        (ends(30, authority=True), "the authority /pki/a.crt ends on 2026-12-23, in 30 days, and the limit is 90"),
        (check.Certificate("/a", problem="No such file"), "the certificate /a cannot be read: No such file"),
    ],
)
def test_certificates(certificate, words):
    found = check.certificate_findings([certificate], LIMITS, NOW)
    assert len(found) == (words is not None)
    assert not words or found[0].startswith(words)


@pytest.mark.parametrize(("free", "found"), [(16, 0), (15, 1), (0, 1)])
def test_disks(free, found):
    sentences = check.disk_findings(check.Disk("/var/lib/etcd", 100 * GIB, free * GIB), LIMITS)
    assert len(sentences) == found
    assert check.disk_findings(None, LIMITS) == check.disk_findings(check.Disk("/", 0, 0), LIMITS) == []


def test_a_full_disk_is_told_in_one_sentence():
    assert check.disk_findings(check.Disk("/var/lib/etcd", 100 * GIB, 5 * GIB), LIMITS) == [
        "the disk of /var/lib/etcd is 95% full with 5.0 GiB left, and the limit is 85%: make room, or give it a larger"
        " disk"
    ]


def view(*sizes):
    members = [Member(number, f"m{number}", (), ("https://h",), False) for number in range(1, len(sizes) + 1)]
    statuses = {
        number: Status("https://h", number, "3.6.14", size, 1, 9, 9, 9, 2, False, (), used)
        for number, (size, used) in enumerate(sizes, 1)
    }
    return View(tuple(members), statuses)


def findings(seen, details):
    return check.member_findings(seen, dict(enumerate(details, 1)), LIMITS, NOW)


@pytest.mark.parametrize(
    ("size", "used", "quota", "words"),
    [
        (GIB, GIB, 2 * GIB, None),
        (GIB, GIB, 0, None),
        (1.7 * GIB, 0.3 * GIB, 2 * GIB, "defragment it, as only 307.2 MiB are in use"),
        (1.7 * GIB, 1.65 * GIB, 2 * GIB, "delete keys or compact and defragment, or raise quota-backend-bytes"),
    ],
)
def test_the_quota(size, used, quota, words):
    found = findings(view((int(size), int(used))), [check.Detail(quota)])
    if words is None:
        assert found == []
    else:
        start = "m1: its database has 1.7 GiB, 85% of its quota of 2.0 GiB, and the limit is 80%: "
        assert found == [start + words]


def test_the_certificate_that_a_member_serves():
    (found,) = findings(view((1, 1)), [check.Detail(0, ends(3))])
    assert found.startswith("m1: the certificate /pki/a.crt ends on 2026-11-26, in 3 days")


def test_data_that_differ():
    three = view((1, 1), (1, 1), (1, 1))
    same = [check.Detail(hash=(7, -1))] * 3
    assert findings(three, same) == []
    assert findings(three, [*same[:2], check.Detail()]) == []
    # compacted elsewhere: another hash says nothing
    assert findings(three, [*same[:2], check.Detail(hash=(8, 5))]) == []
    (found,) = findings(three, [*same[:2], check.Detail(hash=(8, -1))])
    assert found.startswith("members hold different data at one revision (00000007: m1, m2; 00000008: m3)")


def test_a_member_that_does_not_answer_is_left_to_the_problems():
    seen = view((1, 1))
    assert findings(View(seen.members, {1: "connection refused"}), [check.Detail(1)]) == []
    assert findings(seen, []) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"certificate_days": -1}, "limits.certificate_days is -1"),
        ({"quota": 80.0}, "limits.quota is 80; give a share"),
    ],
)
def test_limits_that_cannot_be(changed, words):
    usual = {"certificate_days": 21, "authority_days": 90, "quota": 0.8, "disk": 0.85}
    assert check.parse_limits(usual) == LIMITS
    with pytest.raises(OptionError, match=words):
        check.parse_limits({**usual, **changed})
