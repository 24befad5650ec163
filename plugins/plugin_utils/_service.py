# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this plugin util is PRIVATE to the collection.
# It can change in breaking ways at any time.

"""From the description of a service to the units that run it, and from what is stored to what has to change.

Pure: descriptions and stored units in, units out. A unit remembers in its section C([X-Flotilla]) which deployment it
belongs to, so that a service that is described no more is found and removed. systemd passes over that section.
"""

from __future__ import annotations

import functools
import re
import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils import _unit_file
from ansible_collections.flotilla.cluster.plugins.plugin_utils import _proxy

Description = t.Mapping[str, t.Any]
Unit = dict[str, t.Any]

SECTION = "X-Flotilla"
PROGRAM = "/usr/lib/flotilla/container"
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,47}")
GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
IMAGE = re.compile(r"[a-z0-9]+([._:/@-]*[A-Za-z0-9]+)*")
ENVIRONMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
METADATA = re.compile(r"[^=\s,]+=[^=\s,]+")
SIZE = re.compile(r"[1-9][0-9]*[bkmgBKMG]?")
# address:host:container/protocol, of which only the third is needed
PORT = re.compile(
    r"(?:(?:(?P<address>\[[0-9a-fA-F:]+\]|[0-9]+(?:\.[0-9]+){3}):)?(?P<host>[0-9]+):)?(?P<container>[0-9]+)(?:/(?:tcp|udp|sctp))?"
)
# systemd's own grammar is wider; it has the last word when it loads the unit
SCHEDULE = re.compile(r"[A-Za-z0-9*:,./~ _+-]+")
SPECIFIER = re.compile(r"%(?!%|[A-Za-z])")
MOST_COPIES = 1000


# -- what is wrong ---------------------------------------------------------------------------------------------------


def _texts(service: Description) -> list[tuple[str, str]]:
    """All that goes into the command line as it is: (option, text)."""
    found = [("image", service["image"])]
    for option in ("command", "arguments", "volumes", "environment_files"):
        found += [(option, str(text)) for text in service.get(option) or []]
    found += [(f"environment[{key}]", str(value)) for key, value in (service.get("environment") or {}).items()]
    health = service.get("health") or {}
    return [*found, ("health.command", str(health.get("command") or ""))]


def _port_problems(service: Description) -> list[str]:
    found = []
    for text in map(str, service.get("ports") or []):
        match = PORT.fullmatch(text)
        numbers = [int(number) for number in (match["host"], match["container"]) if number] if match else []
        if not numbers or not all(0 < number < 65536 for number in numbers):
            found.append(f'ports holds "{text}": give [[ADDRESS:]HOST:]CONTAINER[/udp], such as 8080:80')
    return found


def _announce_problems(service: Description) -> list[str]:
    port = service.get("announce")
    if port is None:
        return []
    if service.get("schedule"):
        return ["announce is for what answers all the time: a job with a schedule does not"]
    matches = [PORT.fullmatch(str(text)) for text in service.get("ports") or []]
    published = {int(match["container"]) for match in matches if match}
    on_host = any(str(text).startswith(("--network", "--net")) for text in service.get("arguments") or [])
    if port not in published and not on_host:
        return [f'announce is {port}, which is no port of the container in ports: add "{port}" there']
    return []


def _schedule_problems(service: Description) -> list[str]:
    text = service.get("schedule")
    if text is None:
        return []
    found = []
    if not SCHEDULE.fullmatch(str(text)):
        found.append(f'schedule is "{text}": give a calendar event of systemd, such as daily or *-*-* 03:30:00')
    if service.get("replicas") is not None:
        found.append("schedule and replicas exclude one another: a job runs once at its time, or on each machine")
    if service.get("health"):
        found.append("schedule and health exclude one another: a job is well when it ends with 0")
    return found


def problems_of(service: Description) -> list[str]:
    """What is wrong with one description, as sentences without the name of the service."""
    found = []
    if not IMAGE.fullmatch(service["image"]):
        found.append(f'image is "{service["image"]}", which is no name of an image such as registry.example/web:1.2')
    replicas = service.get("replicas")
    if replicas is not None and not 0 <= replicas <= MOST_COPIES:
        found.append(f"replicas is {replicas}: give 0 to {MOST_COPIES}")
    if service.get("global") and replicas is not None:
        found.append("global and replicas exclude one another: a global service has one copy on each machine that fits")
    found += _port_problems(service) + _announce_problems(service) + _schedule_problems(service)
    found += [
        f'environment holds "{key}", which is no name of a variable: use letters, digits and "_"'
        for key in service.get("environment") or {}
        if not ENVIRONMENT.fullmatch(str(key))
    ]
    for option, text in _texts(service):
        if "\n" in text or "\0" in text:
            found.append(f"{option} has a line break, which a unit file cannot hold")
        elif SPECIFIER.search(text):
            found.append(f'{option} is "{text}": "%" begins a specifier such as %i; write %% for a percent sign')
    constraints = service.get("constraints") or {}
    found += [
        f'constraints.metadata holds "{text}": give KEY=VALUE'
        for text in constraints.get("metadata") or []
        if not METADATA.fullmatch(text)
    ]
    resources = service.get("resources") or {}
    if resources.get("memory") and not SIZE.fullmatch(str(resources["memory"])):
        found.append(
            f'resources.memory is "{resources["memory"]}": give a number of bytes, or one with k, m or g behind it'
        )
    if resources.get("cpus") is not None and not 0 < float(resources["cpus"]) <= 1024:
        found.append(f"resources.cpus is {resources['cpus']}: give a number of processors above 0, such as 0.5")
    return found


def problems(services: t.Sequence[Description], group: str, proxies: t.Sequence[Description] = ()) -> list[str]:
    """All that is wrong with the descriptions, each in one sentence."""
    found = []
    if not GROUP.fullmatch(group):
        found.append(f'service_group is "{group}": use up to 64 letters, digits, ".", "_" and "-"')
    names = [str(service["name"]) for service in services]
    found += [
        f'service "{name}" is described more than once: keep one'
        for name in sorted({n for n in names if names.count(n) > 1})
    ]
    for service in services:
        if not NAME.fullmatch(str(service["name"])):
            found.append(
                f'service "{service["name"]}": use up to 48 lower-case letters, digits, ".", "_" and "-" for its name'
            )
        found += [f"service {service['name']}: {problem}" for problem in problems_of(service)]
    for proxy in proxies:
        if not NAME.fullmatch(str(proxy["name"])):
            found.append(
                f'proxy "{proxy["name"]}": use up to 48 lower-case letters, digits, ".", "_" and "-" for its name'
            )
        found += [f"proxy {proxy['name']}: {problem}" for problem in _proxy.problems_of(proxy)]
    return found or _clashes(services, group, proxies)


def _clashes(services: t.Sequence[Description], group: str, proxies: t.Sequence[Description]) -> list[str]:
    """Units that two descriptions want, such as the sidekick of one service and a service of that very name."""
    names = [unit["name"] for unit in wanted_units(services, group, proxies)]
    return [
        f"unit {name} is wanted by two descriptions: give one of them another name"
        for name in sorted({name for name in names if names.count(name) > 1})
    ]


# -- from descriptions to units ----------------------------------------------------------------------------------------


def word(text: str) -> str:
    """One word of a command line in a unit file. Specifiers keep their meaning, all else is taken as it is."""
    text = text.replace("$", "$$")
    if text and re.fullmatch(r"[A-Za-z0-9%_./:=@,+^{}$*?!~&|()<>-]+", text) and not text.startswith("-/"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _health(service: Description) -> list[str]:
    health = service.get("health") or {}
    if not health.get("command"):
        return []
    return [
        f"--health-cmd={health['command']}",
        f"--health-interval={health.get('interval') or 5}s",
        f"--health-timeout={health.get('timeout') or 5}s",
        f"--health-retries={health.get('retries') or 3}",
    ]


def _run_arguments(service: Description) -> list[str]:
    """What "docker run" gets: options, image, command."""
    resources = service.get("resources") or {}
    found = [f"--publish={port}" for port in service.get("ports") or []]
    found += [f"--env={key}={value}" for key, value in sorted((service.get("environment") or {}).items())]
    found += [f"--env-file={path}" for path in service.get("environment_files") or []]
    found += [f"--volume={volume}" for volume in service.get("volumes") or []]
    found += [f"--memory={resources['memory']}"] if resources.get("memory") else []
    found += [f"--cpus={float(resources['cpus']):g}"] if resources.get("cpus") is not None else []
    found += [f"--pull={service['pull']}"] if service.get("pull", "missing") != "missing" else []
    found += [*_health(service), f"--label=flotilla.service={service['name']}", *(service.get("arguments") or [])]
    return [*map(str, found), str(service["image"]), *map(str, service.get("command") or [])]


def _fixed_ports(service: Description) -> bool:
    matches = [PORT.fullmatch(str(port)) for port in service.get("ports") or []]
    return any(match is not None and match["host"] for match in matches)


def _metadata(service: Description) -> list[tuple[str, str]]:
    return [("MachineMetadata", text) for text in (service.get("constraints") or {}).get("metadata") or []]


def _fleet(service: Description) -> list[tuple[str, str]]:
    """The section for fleet."""
    constraints, resources = service.get("constraints") or {}, service.get("resources") or {}
    if service.get("global"):
        found = [("Global", "true")]
    else:
        found = [("MachineID", constraints["machine_id"])] if constraints.get("machine_id") else []
        found += [("MachineOf", constraints["machine_of"])] if constraints.get("machine_of") else []
    found += _metadata(service)
    if not service.get("global"):
        conflicts = list(constraints.get("conflicts") or [])
        # Two copies cannot have one port of a machine.
        if _fixed_ports(service) and f"{service['name']}@*.service" not in conflicts:
            conflicts.append(f"{service['name']}@*.service")
        found += [("Conflicts", pattern) for pattern in conflicts]
        found += [("SpreadBy", constraints["spread_by"])] if constraints.get("spread_by") else []
        found += [("MaxPerMachine", str(constraints["max_per_machine"]))] if constraints.get("max_per_machine") else []
        found += [("Sticky", "true")] if constraints.get("sticky") else []
        found += [("OnPartition", "stop")] if constraints.get("single") else []
    found += [("MemoryReservation", str(resources["memory"]).upper().rstrip("B"))] if resources.get("memory") else []
    found += [("CPUReservation", f"{float(resources['cpus']):g}")] if resources.get("cpus") is not None else []
    return [*found, ("RollingUpdate", str(service.get("parallel") or 1))]


def _serialize(sections: t.Sequence[_proxy.Section]) -> str:
    return "\n".join(
        f"[{section}]\n" + "".join(f"{option}={value}\n" for option, value in options) for section, options in sections
    )


def _mark(name: str, group: str) -> _proxy.Section:
    return (SECTION, [("Group", group), ("Service", name)])


def render(service: Description, group: str) -> str:
    """The unit file of each copy of a service."""
    name, grace = str(service["name"]), service.get("stop_timeout") or 10
    single = bool(service.get("global") or service.get("schedule"))
    container = name if single else f"{name}-%i"
    copy = "" if single else ", copy %i"
    ready = "healthy" if (service.get("health") or {}).get("command") else "started"
    command = " ".join(map(word, [PROGRAM, container, ready, *_run_arguments(service)]))
    sidekick = [("Wants", sidekick_of(service, "%i"))] if service.get("announce") else []
    kind = [
        # a job has no time by which it must have ended
        ("Type", "oneshot" if service.get("schedule") else "notify"),
        ("NotifyAccess", "all"),
    ]
    life = [
        ("Restart", str(service.get("restart") or "always")),
        ("RestartSec", "1"),
        ("TimeoutStartSec", str(service.get("start_timeout") or 300)),
    ]
    if service.get("schedule"):
        life = [("Restart", "no"), ("TimeoutStartSec", "infinity")]
    return _serialize(
        [
            (
                "Unit",
                [
                    ("Description", f"Service {name}{copy}"),
                    ("After", "docker.service"),
                    ("Wants", "docker.service"),
                    *sidekick,
                ],
            ),
            (
                "Service",
                [
                    *kind,
                    ("ExecStart", command),
                    ("ExecStop", f"-/usr/bin/docker stop --time={grace} {container}"),
                    ("ExecStopPost", f"-/usr/bin/docker rm --force {container}"),
                    # what "docker stop" makes of most programs
                    ("SuccessExitStatus", "143"),
                    *life,
                    ("TimeoutStopSec", str(grace + 20)),
                ],
            ),
            ("X-Fleet", _fleet(service)),
            _mark(name, group),
        ]
    )


def _beside(service: Description, unit: str) -> _proxy.Section:
    """Where what belongs to a unit of the service runs: with it, or with all of them."""
    if not service.get("global"):
        return ("X-Fleet", [("MachineOf", unit)])
    return ("X-Fleet", [("Global", "true"), *_metadata(service)])


def sidekick_of(service: Description, copy: str) -> str:
    """The unit that announces a copy."""
    name = f"{service['name']}-announce"
    return f"{name}.service" if service.get("global") else f"{name}@{copy}.service"


def render_sidekick(service: Description, group: str) -> str:
    """The unit file of what announces a copy.

    It stops before its copy does, so that others hear of the end before it comes, and is started with it again. While
    there is no container it waits for one.
    """
    name, everywhere = str(service["name"]), bool(service.get("global"))
    unit = f"{name}.service" if everywhere else f"{name}@%i.service"
    container = name if everywhere else f"{name}-%i"
    command = f"{_proxy.FLEETCTL} announce --container={container} --port={service['announce']} {name} {unit}"
    return _serialize(
        [
            (
                "Unit",
                [
                    ("Description", f"Announce {unit}"),
                    ("PartOf", unit),
                    ("After", f"{unit} docker.service fleet.service"),
                ],
            ),
            ("Service", [("ExecStart", command), ("Restart", "always"), ("RestartSec", "1")]),
            _beside(service, unit),
            _mark(name, group),
        ]
    )


def render_timer(service: Description, group: str) -> str:
    """The unit file of what starts a job, on the machine where the job is."""
    name = str(service["name"])
    return _serialize(
        [
            ("Unit", [("Description", f"Times of {name}")]),
            ("Timer", [("OnCalendar", str(service["schedule"])), ("AccuracySec", "1s")]),
            _beside(service, f"{name}.service"),
            _mark(name, group),
        ]
    )


def units_of(service: Description, group: str) -> list[Unit]:
    """The units of a service, as M(flotilla.cluster.fleet_unit) takes them."""
    name, content = str(service["name"]), render(service, group)
    if service.get("schedule"):
        return [
            {"name": f"{name}.service", "content": content, "state": "loaded"},
            {"name": f"{name}.timer", "content": render_timer(service, group), "state": "launched"},
        ]
    sidekick = render_sidekick(service, group) if service.get("announce") else ""
    if service.get("global"):
        found = [{"name": f"{name}.service", "content": content, "state": "launched"}]
        if sidekick:
            found.append({"name": sidekick_of(service, ""), "content": sidekick, "state": "launched"})
        return found
    replicas = service.get("replicas")
    copies = range(1, (1 if replicas is None else replicas) + 1)
    # The templates are there for people: "fleetctl start web@4" adds a copy.
    found = [
        {"name": f"{name}@.service", "content": content, "state": "inactive"},
        *({"name": f"{name}@{i}.service", "content": content, "state": "launched"} for i in copies),
    ]
    if sidekick:
        found.append({"name": sidekick_of(service, ""), "content": sidekick, "state": "inactive"})
        found += [{"name": sidekick_of(service, str(i)), "content": sidekick, "state": "launched"} for i in copies]
    return found


def wanted_units(services: t.Sequence[Description], group: str, proxies: t.Sequence[Description] = ()) -> list[Unit]:
    """All units of services and proxies."""
    found = [unit for service in services for unit in units_of(service, group)]
    for proxy in proxies:
        mark = _mark(str(proxy["name"]), group)
        found += [
            {"name": name, "content": _serialize([*sections, mark]), "state": "launched"}
            for name, sections in _proxy.sections(proxy).items()
        ]
    return found


# -- what has to change ------------------------------------------------------------------------------------------------


def _owner(unit: Unit) -> str:
    """The deployment that a stored unit belongs to, "" for all other units."""
    if f"[{SECTION}]" not in unit["content"]:
        return ""
    values = [o.value for o in _options(unit["content"]) if (o.section, o.name) == (SECTION, "Group")]
    return values[-1] if values else ""


@functools.lru_cache(maxsize=4096)
def _options(content: str) -> tuple[_unit_file.UnitOption, ...]:
    """A template and its copies are one text."""
    return tuple(_unit_file.parse_unit(content))


def _same(content: str, stored: str) -> bool:
    return content == stored or _options(content) == _options(stored)


def plan(
    services: t.Sequence[Description], stored: t.Sequence[Unit], group: str, proxies: t.Sequence[Description] = ()
) -> dict[str, t.Any]:
    """What brings the stored units to the descriptions, and what would bring them back.

    ``units``: for fleet_unit, all that shall be there and then what shall not. ``back``: for fleet_unit, the units that
    change, as they are now. ``problems``: units of these names that belong to somebody else, as sentences.
    """
    wanted = wanted_units(services, group, proxies)
    known = {unit["name"]: unit for unit in stored}
    names = {unit["name"] for unit in wanted}
    gone = [name for name, unit in sorted(known.items()) if name not in names and _owner(unit) == group]
    strangers = [name for name in sorted(names & set(known)) if _owner(known[name]) != group]
    back: list[Unit] = []
    for unit in wanted:
        before = known.get(unit["name"])
        if before is None:
            back.append({"name": unit["name"], "state": "absent"})
        elif not _same(unit["content"], before["content"]) or before["desired_state"] != unit["state"]:
            back.append({"name": unit["name"], "content": before["content"], "state": before["desired_state"]})
    return {
        "units": [*wanted, *({"name": name, "state": "absent"} for name in gone)],
        "back": back,
        "problems": [
            f"unit {name} is there already and belongs to "
            + (f"the deployment {_owner(known[name])}" if _owner(known[name]) else "nobody")
            + ": give the service another name, or destroy the unit first"
            for name in strangers
        ],
    }
