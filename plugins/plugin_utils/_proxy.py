# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this plugin util is PRIVATE to the collection.
# It can change in breaking ways at any time.

"""From the description of a proxy to its two units: HAProxy, and what keeps its configuration in step.

Pure. The template of the configuration is in the proxy's own unit file, in a section that systemd passes over: so it
reaches every machine that runs the proxy, shows in a diff, and a change of it is rolled like any other.
"""

from __future__ import annotations

import ipaddress
import re
import typing as t

Description = t.Mapping[str, t.Any]
Section = tuple[str, list[tuple[str, str]]]

FLEETCTL = "/usr/local/bin/fleetctl"
HAPROXY = "/usr/sbin/haproxy"
TEMPLATE_SECTION = "X-Template"
UNITS = "/run/fleet/units"
LINE_MAX = 2000
_NOTHING_UP = 'http-request return status 503 content-type text/plain string "no copy of {service} is up"'
_IN_BACKENDS = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


def template(proxy: Description) -> list[str]:
    """The lines of the configuration, those of copies as C(fleetctl follow) takes them.

    A machine that has lost its power answers nothing, not even with a refusal. The times say how long that may hold up
    a request before another copy gets it.
    """
    if proxy.get("template"):
        return [line.rstrip() for line in str(proxy["template"]).splitlines()]
    lines = [
        "global",
        "log stdout format raw local0 notice",
        "user haproxy",
        "group haproxy",
        # a reload hands the listening sockets over
        f"stats socket /run/flotilla-proxy-{proxy['name']}/admin.sock mode 600 level admin expose-fd listeners",
        "defaults",
        "log global",
        "timeout connect 250ms",
        "timeout client 60s",
        "timeout server 60s",
        "timeout http-request 10s",
        "retries 3",
        "option redispatch 1",
        "default-server check inter 500ms fastinter 250ms fall 2 rise 1 on-marked-down shutdown-sessions tcp-ut 1s",
    ]
    for entry in proxy["listen"]:
        service, mode = str(entry["service"]), str(entry.get("mode") or "http")
        title = f"{service}-{entry['port']}"
        lines += [
            f"frontend {title}",
            f"mode {mode}",
            f"bind {_bind(str(entry.get('address') or ''))}:{entry['port']}",
            f"default_backend {title}",
            f"backend {title}",
            f"mode {mode}",
            "balance roundrobin",
        ]
        if mode == "http":
            # What may have been done once already is not sent again.
            lines += [
                "option forwardfor",
                "http-request disable-l7-retry unless { method GET HEAD OPTIONS }",
                "retry-on all-retryable-errors",
                f"@none {service} {_NOTHING_UP.format(service=service)}",
            ]
        lines.append(f"@each {service} server $name $endpoint")
    return lines


def _bind(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def problems_of(proxy: Description) -> list[str]:
    """What is wrong with one description, as sentences without the name of the proxy."""
    found = []
    if bool(proxy.get("template")) == bool(proxy.get("listen")):
        found.append("give either listen, for a configuration made of it, or a template of one")
    taken: set[tuple[str, int]] = set()
    for entry in proxy.get("listen") or []:
        if not _IN_BACKENDS.fullmatch(str(entry["service"])):
            found.append(f'listen holds service "{entry["service"]}", which is no name of a service')
        address, port = str(entry.get("address") or ""), int(entry["port"])
        try:
            address and ipaddress.ip_address(address)
        except ValueError:
            found.append(f'listen holds address "{address}", which is no IP address')
        if not 0 < port < 65536:
            found.append(f"listen holds port {port}: allowed are 1 to 65535")
        elif (
            (address, port) in taken or ("", port) in taken or (not address and port in {known for _a, known in taken})
        ):
            found.append(f"listen holds port {port} more than once: keep one")
        taken.add((address, port))
    for number, line in enumerate(str(proxy.get("template") or "").splitlines(), 1):
        if len(line.encode()) > LINE_MAX:
            found.append(f"line {number} of template has {len(line.encode())} bytes, more than {LINE_MAX}")
        elif line.rstrip().endswith("\\") or not line.replace("\t", "").isprintable():
            found.append(
                f"line {number} of template ends with a backslash or holds a control character, which a unit file"
                " cannot hold: write it otherwise"
            )
    return found


def _placement(proxy: Description) -> list[tuple[str, str]]:
    return [("Global", "true"), *(("MachineMetadata", str(text)) for text in proxy.get("metadata") or [])]


def sections(proxy: Description) -> dict[str, list[Section]]:
    """The units of a proxy by name, as their sections."""
    name = str(proxy["name"])
    unit, follower = f"{name}.service", f"{name}-follow.service"
    # Before the two are told apart: "new" is what the follower is about to put in place.
    directory = f"/run/flotilla-proxy-{name}"
    file, check = f"{directory}/haproxy.cfg", f"{HAPROXY} -q -c -f"
    follow = f"{FLEETCTL} follow --unit"
    main: list[Section] = [
        (
            "Unit",
            [
                ("Description", f"Proxy {name}"),
                ("Wants", f"network-online.target {follower}"),
                ("After", "network-online.target fleet.service"),
            ],
        ),
        (
            "Service",
            [
                ("Type", "notify"),
                ("RuntimeDirectory", f"flotilla-proxy-{name}"),
                ("RuntimeDirectoryMode", "0750"),
                # its last configuration outlives a restart that etcd is not there for
                ("RuntimeDirectoryPreserve", "yes"),
                ("ExecStartPre", f'{follow} --once "--check={check} {{}}" {UNITS}/{unit} {file}'),
                ("ExecStart", f"{HAPROXY} -Ws -f {file}"),
                ("ExecReload", f"{check} {file}"),
                ("ExecReload", "/bin/kill -USR2 $MAINPID"),
                ("KillMode", "mixed"),
                ("SuccessExitStatus", "143"),
                ("Restart", "always"),
                ("RestartSec", "1"),
            ],
        ),
        ("X-Fleet", [*_placement(proxy), ("RollingUpdate", "1")]),
        (TEMPLATE_SECTION, [("Line", line) for line in template(proxy) if line.strip()]),
    ]
    side: list[Section] = [
        (
            "Unit",
            [
                ("Description", f"Configuration of proxy {name}"),
                ("PartOf", unit),
                ("After", f"{unit} fleet.service"),
            ],
        ),
        (
            "Service",
            [
                (
                    "ExecStart",
                    f'{follow} "--check={check} {{}}" "--reload=/bin/systemctl try-reload-or-restart {unit}"'
                    f" {UNITS}/{unit} {file}",
                ),
                ("Restart", "always"),
                ("RestartSec", "1"),
            ],
        ),
        ("X-Fleet", _placement(proxy)),
    ]
    return {unit: main, follower: side}
