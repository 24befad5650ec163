# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmarks compute from what they saw."""

from __future__ import annotations

import pytest
from bench import figures

# As ansible-core 2.21 and ansible.posix 2.2 print it.
OUTPUT = """\
TASK [flotilla.cluster.fleet : Run fleet] **************************************
Sunday 22 November 2026  18:48:37 +0000 (0:00:08.661)       0:02:10.728 *******
changed: [b-01]

PLAY RECAP *********************************************************************
b-01                       : ok=21   changed=7    unreachable=0    failed=0    skipped=16   rescued=0    ignored=0
b-02                       : ok=16   changed=0    unreachable=0    failed=0    skipped=14   rescued=0    ignored=0

TASKS RECAP ********************************************************************
Sunday 22 November 2026  18:59:04 +0000 (0:00:03.934)       0:00:37.928 *******
===============================================================================
flotilla.cluster.pki : Make the keys ------------------------------------ 1.55s
flotilla.cluster.bootstrap : install | Install from the lists at hand - 116.17s
flotilla.cluster.fleet : Run fleet ------------------------------------- 12.41s
flotilla.cluster.pki : Validating arguments against arg spec 'main' - Keys and certificates of a cluster --- 0.54s
Install packages -------------------------------------------------------- 0.10s
Install packages -------------------------------------------------------- 0.20s
"""


def test_changed_counts_each_host() -> None:
    assert figures.changed(OUTPUT) == {"b-01": 7, "b-02": 0}
    assert figures.changed("ERROR! the playbook could not be found") == {}


def test_profile_is_slowest_first_and_complete() -> None:
    assert figures.profile(OUTPUT) == [
        ("flotilla.cluster.bootstrap : install | Install from the lists at hand", 116.17),
        ("flotilla.cluster.fleet : Run fleet", 12.41),
        ("flotilla.cluster.pki : Make the keys", 1.55),
        (
            "flotilla.cluster.pki : Validating arguments against arg spec 'main' - Keys and certificates of a cluster",
            0.54,
        ),
        ("Install packages", 0.20),
        ("Install packages", 0.10),
    ]


def test_profile_without_a_table_is_empty() -> None:
    assert figures.profile("some task ---- 1.00s\n") == []


def test_median_profile_adds_tasks_of_one_name_and_counts_missing_ones_as_nothing() -> None:
    runs = [[("a", 1.0), ("b", 5.0), ("a", 2.0)], [("a", 4.0)], [("a", 9.0), ("c", 1.0)]]
    assert figures.median_profile(runs) == [("a", 4.0), ("b", 0.0), ("c", 0.0)]


def test_spread_and_ratio_use_the_median() -> None:
    assert figures.spread([3.0, 1.0, 11.0]) == "3.0 (1.0-11.0)"
    assert figures.spread([0.126], digits=2) == "0.13 (0.13-0.13)"
    assert figures.ratio([6.0, 9.0, 60.0], [3.0, 2.0, 30.0]) == 3.0


def test_table_has_columns() -> None:
    assert figures.table([["", "wall"], ["script", "1.0"], ["play", "12.0"]]) == (
        "        wall\n------  ----\nscript   1.0\nplay    12.0"
    )


def test_machine_time_counts_neither_idle_nor_guest_time() -> None:
    line = "cpu  181408 1 44733 390272 2753 5 2727 15530 700 80\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
    assert figures.machine_time(line, 100) == figures.MachineTime(busy=2288.74, stolen=155.30)


def test_cgroup_time() -> None:
    assert figures.cgroup_time("usage_usec 3109839\nuser_usec 1934991\nsystem_usec 1174848\n") == 3.109839


def test_spent_counts_only_the_work_itself() -> None:
    assert figures.Spent(wall=4, controller=1.5, hosts=2.5, others=9, stolen=1, load=3).cpu == 4.0


def test_memory_of_a_process() -> None:
    assert figures.memory_kib("Name:\tfleetd\nVmRSS:\t   37452 kB\n", "VmRSS") == 37452
    with pytest.raises(ValueError, match="no field Pss"):
        figures.memory_kib("VmRSS:\t   37452 kB\n", "Pss")


REST = """\
== fleet.service
VmRSS:\t   36864 kB
Pss:               24576 kB
{} 15921 446
1000000000 5 3
== etcd.service
VmRSS:\t   40960 kB
Pss:               20480 kB
{} 1 1
"""


def test_services_at_rest_sums_threads_and_takes_memory_at_the_end() -> None:
    first = {"f-01": REST.format(2_000_000_000, 0)}
    second = {"f-01": REST.format(2_050_000_000, 300_000_000).replace("36864", "37888")}
    rest = figures.services_at_rest(first, second, 10.0)
    assert rest["fleet.service"]["f-01"] == pytest.approx({"rss": 37.0, "pss": 24.0, "cpu": 0.5})
    assert rest["etcd.service"]["f-01"] == pytest.approx({"rss": 40.0, "pss": 20.0, "cpu": 3.0})


def test_container_start_keeps_the_fraction() -> None:
    assert figures.container_start("1970-01-01T00:01:00.250000001Z\n") == pytest.approx(60.25)
    assert figures.container_start("1970-01-01T00:00:05Z") == 5.0
    with pytest.raises(ValueError, match="not a time of docker's"):
        figures.container_start("0001-01-01 00:00")


def test_victim_leads_nothing_and_runs_something() -> None:
    machines = ["f-01", "f-02", "f-03"]
    assert figures.choose_victim(machines, {"f-02"}, machines) == "f-01"
    assert figures.choose_victim(machines, {"f-01", "f-02"}, machines) == "f-03"
    assert figures.choose_victim(machines, {"f-01"}, {"f-03"}) == "f-03"
    with pytest.raises(ValueError, match="no machine leads nothing"):
        figures.choose_victim(machines, {"f-01", "f-02"}, {"f-01"})


def test_etcd_leader() -> None:
    def endpoint(number: int, leader: int) -> dict[str, object]:
        status = {"header": {"member_id": number}, "leader": leader}
        return {"Endpoint": f"https://10.79.1.{number}:2379", "Status": status}

    assert figures.etcd_leader([endpoint(11, 12), endpoint(12, 12), endpoint(13, 12)]) == "10.79.1.12"
    with pytest.raises(ValueError, match="none of the endpoints"):
        figures.etcd_leader([endpoint(11, 0)])


def test_seconds_of_one_number_of_keys() -> None:
    rows = [{"keys": 1, "wall": 1.5}, {"keys": 100, "wall": 60.0}, {"keys": 1, "wall": 1.25}]
    assert figures.seconds_of(rows, 1) == [1.5, 1.25]
    assert figures.seconds_of(rows, 7) == []


def test_a_loop_is_extrapolated_from_one_and_a_hundred_turns() -> None:
    assert figures.extrapolated(1.0, 100.0, 100) == pytest.approx(100.0)
    assert figures.extrapolated(2.0, 101.0, 1000) == pytest.approx(1001.0)


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (
            " 60 / 60 [=====] 100.00% 1m0s\nPASS: Throughput is 931 writes/s\nPASS: Slowest request took 0.2s\n"
            "PASS: Stddev is 0.01s\nPASS\n",
            {"writes": 931, "passed": True},
        ),
        (
            "FAIL: Throughput too low: 2411 writes/s\nSlowest request took too long: 0.9s\nPASS: Stddev is 0.01s\n"
            "FAIL\n",
            {"writes": 2411, "passed": False},
        ),
    ],
)
def test_what_check_perf_prints(output: str, found: dict[str, object]) -> None:
    assert figures.check_perf(output) == found


def test_check_perf_without_a_throughput_is_an_error() -> None:
    with pytest.raises(ValueError, match="printed no throughput"):
        figures.check_perf("Error: context deadline exceeded")


def test_turns() -> None:
    assert figures.turns("1.0 1.5 2.0 2.25\n10 11 12 14\n") == ([0.25, 2.0], [0.5, 1.0])
