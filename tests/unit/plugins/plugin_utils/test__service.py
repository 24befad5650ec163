# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From descriptions of services to units, and what is to change."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.flotilla.cluster.plugins.filter.service_plan import service_plan
from ansible_collections.flotilla.cluster.plugins.module_utils import _unit_file
from ansible_collections.flotilla.cluster.plugins.plugin_utils import _service

WEB: dict[str, t.Any] = {"name": "web", "image": "example/web:1"}


def options(text: str) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for option in _unit_file.parse_unit(text):
        found.setdefault((option.section, option.name), []).append(option.value)
    return found


def stored(units: list[dict[str, t.Any]]) -> list[dict[str, t.Any]]:
    """Units as fleet_unit_info returns them."""
    return [{"name": unit["name"], "content": unit["content"], "desired_state": unit["state"]} for unit in units]


def test_the_least_that_can_be_said() -> None:
    template, copy = _service.units_of(WEB, "g")
    assert (template["name"], template["state"]) == ("web@.service", "inactive")
    assert (copy["name"], copy["state"]) == ("web@1.service", "launched")
    assert template["content"] == copy["content"]
    found = options(copy["content"])
    assert found["Service", "ExecStart"] == [
        "/usr/lib/flotilla/container web-%i started --label=flotilla.service=web example/web:1"
    ]
    assert found["Service", "ExecStop"] == ["-/usr/bin/docker stop --time=10 web-%i"]
    assert found["X-Fleet", "RollingUpdate"] == ["1"]
    assert found["X-Flotilla", "Group"] == ["g"]
    assert ("X-Fleet", "Conflicts") not in found


def test_all_that_can_be_said() -> None:
    service = {
        **WEB,
        "command": ["sh", "-c", 'echo "$HOME" 100%%'],
        "replicas": 3,
        "ports": ["80:8080", "192.0.2.1:53:53/udp", "9000"],
        "environment": {"PAGE": "%i", "A": "b c"},
        "environment_files": ["/etc/web.env"],
        "volumes": ["data:/data"],
        "health": {"command": "wget -q http://127.0.0.1/", "interval": 2},
        "constraints": {
            "metadata": ["az=1", "az=2"],
            "spread_by": "rack",
            "sticky": True,
            "single": True,
            "max_per_machine": 2,
        },
        "resources": {"memory": "256m", "cpus": 0.5},
        "parallel": 2,
        "pull": "never",
        "restart": "on-failure",
        "stop_timeout": 30,
        "arguments": ["--read-only"],
    }
    units = _service.units_of(service, "g")
    assert [unit["name"] for unit in units] == ["web@.service", *(f"web@{i}.service" for i in (1, 2, 3))]
    found = options(units[1]["content"])
    assert found["Service", "ExecStart"] == [
        "/usr/lib/flotilla/container web-%i healthy --publish=80:8080 --publish=192.0.2.1:53:53/udp --publish=9000"
        ' "--env=A=b c" --env=PAGE=%i --env-file=/etc/web.env --volume=data:/data --memory=256m --cpus=0.5 --pull=never'
        ' "--health-cmd=wget -q http://127.0.0.1/" --health-interval=2s --health-timeout=5s --health-retries=3'
        ' --label=flotilla.service=web --read-only example/web:1 sh -c "echo \\"$$HOME\\" 100%%"'
    ]
    fleet = {name: values for (section, name), values in found.items() if section == "X-Fleet"}
    assert fleet == {
        "MachineMetadata": ["az=1", "az=2"],
        "Conflicts": ["web@*.service"],
        "SpreadBy": ["rack"],
        "MaxPerMachine": ["2"],
        "Sticky": ["true"],
        "OnPartition": ["stop"],
        "MemoryReservation": ["256M"],
        "CPUReservation": ["0.5"],
        "RollingUpdate": ["2"],
    }
    # what fleet itself makes of it
    _unit_file.requirements("web@1.service", _unit_file.parse_unit(units[1]["content"]))


def test_a_global_service_is_one_unit() -> None:
    service = {**WEB, "global": True, "ports": ["80:80"], "constraints": {"metadata": ["disk=ssd"], "conflicts": ["x"]}}
    (unit,) = _service.units_of(service, "g")
    found = options(unit["content"])
    assert unit["name"] == "web.service"
    assert found["X-Fleet", "Global"] == ["true"]
    assert found["X-Fleet", "MachineMetadata"] == ["disk=ssd"]
    assert ("X-Fleet", "Conflicts") not in found
    assert found["Service", "ExecStop"] == ["-/usr/bin/docker stop --time=10 web"]
    _unit_file.requirements("web.service", _unit_file.parse_unit(unit["content"]))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("", '""'),
        ("two words", '"two words"'),
        ("semi;colon", '"semi;colon"'),
        ("it's", '"it\'s"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("back\\slash", '"back\\\\slash"'),
        ("$PATH", "$$PATH"),
        ("%i", "%i"),
    ],
)
def test_words_of_a_command_line(text: str, shown: str) -> None:
    assert _service.word(text) == shown


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image": "Web Server"}, 'service web: image is "Web Server", which is no name of an image'),
        ({"replicas": -1}, "service web: replicas is -1: give 0 to 1000"),
        ({"replicas": 2, "global": True}, "service web: global and replicas exclude one another"),
        (
            {"ports": ["http"]},
            'service web: ports holds "http": give [[ADDRESS:]HOST:]CONTAINER[/udp], such as 8080:80',
        ),
        ({"ports": ["70000:80"]}, 'service web: ports holds "70000:80"'),
        ({"environment": {"A-B": "c"}}, 'service web: environment holds "A-B", which is no name of a variable'),
        ({"environment": {"A": "50% off"}}, 'service web: environment[A] is "50% off": "%" begins a specifier'),
        ({"command": ["a\nb"]}, "service web: command has a line break"),
        ({"constraints": {"metadata": ["ssd"]}}, 'service web: constraints.metadata holds "ssd": give KEY=VALUE'),
        ({"resources": {"memory": "much"}}, 'service web: resources.memory is "much"'),
        ({"resources": {"cpus": 0}}, "service web: resources.cpus is 0"),
        ({"name": "Web!"}, 'service "Web!": use up to 48 lower-case letters'),
    ],
)
def test_what_is_wrong_is_one_sentence(change: dict[str, t.Any], sentence: str) -> None:
    (problem,) = service_plan([{**WEB, **change}], [], "g")["problems"]
    assert problem.startswith(sentence)


def test_everything_wrong_is_named_at_once() -> None:
    plan = service_plan([WEB, WEB, {**WEB, "name": "b", "replicas": -1}], [], "a/b")
    assert plan["units"] == []
    assert [problem.split(":")[0] for problem in plan["problems"]] == [
        'service_group is "a/b"',
        'service "web" is described more than once',
        "service b",
    ]


def test_a_new_service_is_taken_back_by_removing_it() -> None:
    plan = service_plan([WEB], [], "g")
    assert [unit["name"] for unit in plan["units"]] == ["web@.service", "web@1.service"]
    assert plan["back"] == [
        {"name": "web@.service", "state": "absent"},
        {"name": "web@1.service", "state": "absent"},
    ]


def test_what_is_there_already_is_not_taken_back() -> None:
    there = stored(_service.units_of(WEB, "g"))
    plan = service_plan([WEB], there, "g")
    assert plan["back"] == []
    assert plan["problems"] == []


def test_what_another_wrote_in_another_form_is_the_same() -> None:
    there = stored(_service.units_of(WEB, "g"))
    for unit in there:
        unit["content"] = "# a comment\n" + unit["content"].replace("=", " = ", 1)
    assert service_plan([WEB], there, "g")["back"] == []


def test_an_update_is_taken_back_to_what_there_was() -> None:
    there = stored(_service.units_of(WEB, "g"))
    there[1]["desired_state"] = "loaded"
    plan = service_plan([{**WEB, "image": "example/web:2"}], there, "g")
    assert plan["back"] == [
        {"name": unit["name"], "content": unit["content"], "state": unit["desired_state"]} for unit in there
    ]
    assert "example/web:2" in plan["units"][1]["content"]


def test_what_is_described_no_more_goes_and_others_stay() -> None:
    there = stored(
        [
            *_service.units_of({**WEB, "replicas": 3}, "g"),
            *_service.units_of({**WEB, "name": "old", "global": True}, "g"),
            *_service.units_of({**WEB, "name": "theirs"}, "other"),
            {"name": "hand.service", "content": "[Service]\nExecStart=/bin/true\n", "state": "launched"},
        ]
    )
    plan = service_plan([{**WEB, "replicas": 1}], there, "g")
    assert [unit["name"] for unit in plan["units"] if unit["state"] == "absent"] == [
        "old.service",
        "web@2.service",
        "web@3.service",
    ]


def test_units_of_others_are_refused() -> None:
    hand = {"name": "web@1.service", "content": "[Service]\nExecStart=/bin/true\n", "state": "launched"}
    there = stored([hand, *_service.units_of({**WEB, "name": "b", "global": True}, "other")])
    plan = service_plan([WEB, {**WEB, "name": "b", "global": True}], there, "g")
    assert plan["problems"] == [
        "unit b.service is there already and belongs to the deployment other: give the service another name, or destroy"
        " the unit first",
        "unit web@1.service is there already and belongs to nobody: give the service another name, or destroy the unit"
        " first",
    ]


ANNOUNCED: dict[str, t.Any] = {**WEB, "replicas": 2, "ports": ["8080"], "announce": 8080}


def test_a_service_that_is_announced_has_a_sidekick_for_each_copy() -> None:
    units = {unit["name"]: unit for unit in _service.units_of(ANNOUNCED, "g")}
    assert {name: unit["state"] for name, unit in units.items()} == {
        "web@.service": "inactive",
        "web@1.service": "launched",
        "web@2.service": "launched",
        "web-announce@.service": "inactive",
        "web-announce@1.service": "launched",
        "web-announce@2.service": "launched",
    }
    copy, sidekick = (options(units[name]["content"]) for name in ("web@1.service", "web-announce@1.service"))
    # a copy that is started brings its sidekick along, and one that is stopped stops it first
    assert "web-announce@%i.service" in copy["Unit", "Wants"]
    assert sidekick["Unit", "PartOf"] == ["web@%i.service"]
    assert sidekick["Unit", "After"][0].split()[0] == "web@%i.service"
    assert sidekick["X-Fleet", "MachineOf"] == ["web@%i.service"]
    assert sidekick["Service", "ExecStart"] == [
        "/usr/local/bin/fleetctl announce --container=web-%i --port=8080 web web@%i.service"
    ]
    _unit_file.requirements("web-announce@1.service", _unit_file.parse_unit(units["web-announce@1.service"]["content"]))


def test_the_sidekick_of_a_global_service_is_on_the_same_machines() -> None:
    service = {**WEB, "global": True, "ports": ["80:80"], "announce": 80, "constraints": {"metadata": ["disk=ssd"]}}
    unit, sidekick = _service.units_of(service, "g")
    assert sidekick["name"] == "web-announce.service"
    found = options(sidekick["content"])
    assert found["X-Fleet", "Global"] == ["true"]
    assert found["X-Fleet", "MachineMetadata"] == options(unit["content"])["X-Fleet", "MachineMetadata"]
    assert found["Service", "ExecStart"] == [
        "/usr/local/bin/fleetctl announce --container=web --port=80 web web.service"
    ]


def test_a_job_has_a_timer_where_it_is() -> None:
    service, timer = _service.units_of({**WEB, "schedule": "*-*-* 03:30:00"}, "g")
    assert (service["name"], service["state"]) == ("web.service", "loaded")
    assert (timer["name"], timer["state"]) == ("web.timer", "launched")
    found = options(service["content"])
    assert found["Service", "Type"] == ["oneshot"]
    assert found["Service", "Restart"] == ["no"]
    assert found["Service", "TimeoutStartSec"] == ["infinity"]
    assert found["Service", "ExecStart"][0].startswith("/usr/lib/flotilla/container web started ")
    found = options(timer["content"])
    assert found["Timer", "OnCalendar"] == ["*-*-* 03:30:00"]
    assert found["X-Fleet", "MachineOf"] == ["web.service"]
    everywhere = _service.units_of({**WEB, "schedule": "daily", "global": True}, "g")
    assert [options(unit["content"])["X-Fleet", "Global"] for unit in everywhere] == [["true"], ["true"]]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"announce": 80}, 'service web: announce is 80, which is no port of the container in ports: add "80" there'),
        ({"announce": 8080, "ports": ["8080:80"]}, "service web: announce is 8080"),
        ({"announce": 80, "ports": ["80"], "schedule": "daily"}, "service web: announce is for what answers all"),
        ({"schedule": "daily\nExecStart=x"}, "service web: schedule is"),
        ({"schedule": "daily", "replicas": 2}, "service web: schedule and replicas exclude"),
        ({"schedule": "daily", "health": {"command": "true"}}, "service web: schedule and health exclude"),
    ],
)
def test_what_is_wrong_with_jobs_and_announcements(change: dict[str, t.Any], sentence: str) -> None:
    (problem,) = service_plan([{**WEB, **change}], [], "g")["problems"]
    assert problem.startswith(sentence)


def test_a_service_on_the_network_of_its_machine_may_be_announced() -> None:
    service = {**WEB, "announce": 80, "arguments": ["--network=host"]}
    assert service_plan([service], [], "g")["problems"] == []


FRONT: dict[str, t.Any] = {"name": "front", "listen": [{"service": "web", "port": 80}]}


def test_a_proxy_is_two_units_and_carries_its_template() -> None:
    plan = service_plan([], [], "g", [FRONT])
    assert [unit["name"] for unit in plan["units"]] == ["front.service", "front-follow.service"]
    front, follow = (options(unit["content"]) for unit in plan["units"])
    lines = front["X-Template", "Line"]
    assert "bind :80" in lines
    assert "@each web server $name $endpoint" in lines
    assert any(line.startswith("@none web http-request return status 503") for line in lines)
    assert front["X-Fleet", "Global"] == follow["X-Fleet", "Global"] == ["true"]
    assert "front-follow.service" in front["Unit", "Wants"][0]
    assert follow["Unit", "PartOf"] == ["front.service"]
    assert " /run/fleet/units/front.service " in follow["Service", "ExecStart"][0]
    assert front["X-Flotilla", "Group"] == ["g"]
    for unit in plan["units"]:
        _unit_file.requirements(unit["name"], _unit_file.parse_unit(unit["content"]))


def test_a_proxy_for_connections_and_one_with_a_template_of_its_own() -> None:
    entry = {"service": "db", "port": 5432, "address": "2001:db8::1", "mode": "tcp"}
    plan = service_plan([], [], "g", [{"name": "front", "listen": [entry], "metadata": ["edge=yes"]}])
    front = options(plan["units"][0]["content"])
    assert "bind [2001:db8::1]:5432" in front["X-Template", "Line"]
    assert not any("retry" in line or "@none" in line for line in front["X-Template", "Line"])
    assert front["X-Fleet", "MachineMetadata"] == ["edge=yes"]
    own = "defaults\n  mode http\n\nbackend x\n  @each web server $name $endpoint\n"
    plan = service_plan([], [], "g", [{"name": "front", "template": own}])
    front = options(plan["units"][0]["content"])
    assert front["X-Template", "Line"] == ["defaults", "mode http", "backend x", "@each web server $name $endpoint"]


NGINX: dict[str, t.Any] = {
    "name": "front",
    "program": "nginx",
    "listen": [
        {"service": "web", "port": 80},
        {"service": "db", "port": 5432, "address": "2001:db8::1", "mode": "tcp"},
    ],
}


def test_nginx_does_the_same() -> None:
    plan = service_plan([], [], "g", [NGINX])
    assert [unit["name"] for unit in plan["units"]] == ["front.service", "front-follow.service"]
    front, follow = (options(unit["content"]) for unit in plan["units"])
    assert front["Service", "ExecStart"] == ["/usr/sbin/nginx -c /run/flotilla-proxy-front/nginx.conf"]
    assert front["Service", "ExecReload"] == [
        "/usr/sbin/nginx -q -t -c /run/flotilla-proxy-front/nginx.conf",
        "/bin/kill -HUP $MAINPID",
    ]
    lines = front["X-Template", "Line"]
    assert f"pid {front['Service', 'PIDFile'][0]};" in lines
    # what cannot be is refused before nginx sees it
    assert '"--check=/usr/sbin/nginx -q -t -c {}"' in front["Service", "ExecStartPre"][0]
    assert '"--check=/usr/sbin/nginx -q -t -c {}"' in follow["Service", "ExecStart"][0]
    assert "listen 80;" in lines
    assert "listen [2001:db8::1]:5432;" in lines
    assert "proxy_pass http://web-80;" in lines
    assert "proxy_pass db-5432-2001-db8--1;" in lines
    assert "upstream db-5432-2001-db8--1 {" in lines
    for service in ("web", "db"):
        assert f"@each {service} server $endpoint max_fails=1 fail_timeout=2s;" in lines
        assert f"@none {service} server 127.0.0.1:9 down;" in lines
    assert '@none web return 503 "no copy of web is up";' in lines
    assert sum(line.count("{") - line.count("}") for line in lines) == 0
    assert all(line[-1] in "{};" for line in lines)


def test_nginx_gets_no_block_that_nothing_needs() -> None:
    def lines(entry: dict[str, t.Any]) -> list[str]:
        plan = service_plan([], [], "g", [{**NGINX, "listen": [entry]}])
        return options(plan["units"][0]["content"])["X-Template", "Line"]

    web, db = (lines(entry) for entry in NGINX["listen"])
    assert ("http {" in web, "stream {" in web, any("load_module" in line for line in web)) == (True, False, False)
    assert ("http {" in db, "stream {" in db, any("load_module" in line for line in db)) == (False, True, True)


def test_one_port_at_two_addresses_is_two_backends() -> None:
    entries = [{"service": "web", "port": 80, "address": f"192.0.2.{number}"} for number in (1, 2)]
    for program, word in (("haproxy", "backend"), ("nginx", "upstream")):
        plan = service_plan([], [], "g", [{"name": "front", "program": program, "listen": entries}])
        lines = options(plan["units"][0]["content"])["X-Template", "Line"]
        names = [line.split()[1] for line in lines if line.startswith(f"{word} ")]
        assert names == ["web-80-192-0-2-1", "web-80-192-0-2-2"]


def test_a_proxy_that_is_described_no_more_goes() -> None:
    units = service_plan([], [], "g", [FRONT])["units"]
    plan = service_plan([], stored(units), "g", [])
    assert {unit["name"]: unit["state"] for unit in plan["units"]} == {
        "front.service": "absent",
        "front-follow.service": "absent",
    }


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"listen": []}, "proxy front: give either listen"),
        ({"template": "global"}, "proxy front: give either listen"),
        ({"listen": [{"service": "web", "port": 0}]}, "proxy front: listen holds port 0"),
        (
            {"listen": [{"service": "web", "port": 80}, {"service": "b", "port": 80, "address": "192.0.2.1"}]},
            "proxy front",
        ),
        ({"listen": [{"service": "web", "port": 80, "address": "x"}]}, 'proxy front: listen holds address "x"'),
        ({"listen": [{"service": "web\nx", "port": 80}]}, "proxy front: listen holds service"),
        ({"listen": None, "template": "a\nb \\"}, "proxy front: line 2 of template ends with a backslash"),
        ({"listen": None, "template": "x" * 2001}, "proxy front: line 1 of template has 2001 bytes"),
        ({"name": "Front!"}, 'proxy "Front!": use up to 48'),
        ({"program": "varnish"}, 'proxy front: program is "varnish": allowed are haproxy and nginx'),
        (
            {"listen": None, "template": "events {}", "program": "nginx"},
            'proxy front: template has no line "pid /run/flotilla-proxy-front/nginx.pid;"',
        ),
    ],
)
def test_what_is_wrong_with_a_proxy(change: dict[str, t.Any], sentence: str) -> None:
    (problem,) = service_plan([], [], "g", [{**FRONT, **change}])["problems"]
    assert problem.startswith(sentence)


def test_two_descriptions_cannot_want_one_unit() -> None:
    services = [{**ANNOUNCED, "global": True, "replicas": None}, {**WEB, "name": "web-announce", "global": True}]
    assert service_plan(services, [], "g")["problems"] == [
        "unit web-announce.service is wanted by two descriptions: give one of them another name"
    ]
