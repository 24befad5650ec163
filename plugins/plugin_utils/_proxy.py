# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this plugin util is PRIVATE to the collection.
# It can change in breaking ways at any time.

"""From the description of a proxy to its two units: HAProxy or nginx, and what keeps its configuration in step.

Pure. The template of the configuration is in the proxy's own unit file, in a section that systemd passes over: so it
reaches every machine that runs the proxy, shows in a diff, and a change of it is rolled like any other.
"""

from __future__ import annotations

import ipaddress
import re
import typing as t
from dataclasses import dataclass

Description = t.Mapping[str, t.Any]
Section = tuple[str, list[tuple[str, str]]]

FLEETCTL = "/usr/local/bin/fleetctl"
TEMPLATE_SECTION = "X-Template"
UNITS = "/run/fleet/units"
LINE_MAX = 2000
_NOTHING_UP = "no copy of {service} is up"
_IN_BACKENDS = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Program:
    """What one proxy does in another way than the other. In all texts C({directory}) is that of the proxy, in /run."""

    name: str
    file: str
    check: str  # the command that judges the file whose path comes behind it
    start: tuple[tuple[str, str], ...]
    reload: str  # the signal at which it reads the file again
    configuration: t.Callable[[Description, str], list[str]]


def _title(entry: Description) -> str:
    """What a backend is called."""
    address = re.sub(r"[^A-Za-z0-9]", "-", str(entry.get("address") or ""))
    return f"{entry['service']}-{entry['port']}" + (f"-{address}" if address else "")


def _mode(entry: Description) -> str:
    return str(entry.get("mode") or "http")


def _haproxy(proxy: Description, directory: str) -> list[str]:
    """A machine that has lost its power answers nothing, not even with a refusal: the times say how long that may hold
    up a request before another copy gets it.
    """
    lines = [
        "global",
        "log stdout format raw local0 notice",
        "user haproxy",
        "group haproxy",
        # a reload hands the listening sockets over
        f"stats socket {directory}/admin.sock mode 600 level admin expose-fd listeners",
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
        service, mode, title = str(entry["service"]), _mode(entry), _title(entry)
        lines += [
            f"frontend {title}",
            f"mode {mode}",
            f"bind {_bind(entry)}:{entry['port']}",
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
                f"@none {service} http-request return status 503 content-type text/plain"
                f' string "{_NOTHING_UP.format(service=service)}"',
            ]
        lines.append(f"@each {service} server $name $endpoint")
    return lines


def _nginx(proxy: Description, directory: str) -> list[str]:
    """nginx finds out by requests which copies are lost, and sends again only what cannot have been done already.

    To a copy no connection is kept open: on one to a machine without power a request would wait for its whole timeout.
    """
    by_mode = {mode: [entry for entry in proxy["listen"] if _mode(entry) == mode] for mode in ("http", "tcp")}
    lines = [
        "user www-data;",
        "worker_processes auto;",
        f"pid {directory}/nginx.pid;",
        "error_log stderr warn;",
        *(["load_module modules/ngx_stream_module.so;"] if by_mode["tcp"] else []),
        "events {",
        "worker_connections 4096;",
        "}",
    ]
    if by_mode["http"]:
        lines += [
            "http {",
            "access_log off;",
            "server_tokens off;",
            "default_type text/plain;",
            "client_max_body_size 0;",
            "proxy_connect_timeout 250ms;",
            "proxy_next_upstream_tries 4;",
            "proxy_http_version 1.1;",
            "map $http_upgrade $flotilla_connection {",
            "default upgrade;",
            "'' close;",
            "}",
            "proxy_set_header Host $http_host;",
            "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
            "proxy_set_header Upgrade $http_upgrade;",
            "proxy_set_header Connection $flotilla_connection;",
            *(line for entry in by_mode["http"] for line in _nginx_http(entry)),
            "}",
        ]
    if by_mode["tcp"]:
        lines += [
            "stream {",
            "proxy_connect_timeout 250ms;",
            "proxy_timeout 60s;",
            "proxy_next_upstream_tries 4;",
            *(line for entry in by_mode["tcp"] for line in _nginx_tcp(entry)),
            "}",
        ]
    return lines


def _nginx_upstream(entry: Description) -> list[str]:
    service = str(entry["service"])
    return [
        f"upstream {_title(entry)} {{",
        # all processes of nginx know of a copy that is lost as soon as one of them does
        f"zone {_title(entry)} 256k;",
        f"@each {service} server $endpoint max_fails=1 fail_timeout=2s;",
        # nginx takes no upstream without a server
        f"@none {service} server 127.0.0.1:9 down;",
        "}",
    ]


def _nginx_http(entry: Description) -> list[str]:
    service = str(entry["service"])
    return [
        *_nginx_upstream(entry),
        "server {",
        f"listen {_listen(entry)};",
        "location / {",
        f'@none {service} return 503 "{_NOTHING_UP.format(service=service)}";',
        f"proxy_pass http://{_title(entry)};",
        "}",
        "}",
    ]


def _nginx_tcp(entry: Description) -> list[str]:
    return [
        *_nginx_upstream(entry),
        "server {",
        f"listen {_listen(entry)};",
        f"proxy_pass {_title(entry)};",
        "}",
    ]


def _listen(entry: Description) -> str:
    return f"{_bind(entry)}:{entry['port']}" if entry.get("address") else str(entry["port"])


def _bind(entry: Description) -> str:
    address = str(entry.get("address") or "")
    return f"[{address}]" if ":" in address else address


_HAPROXY_FILE, _NGINX_FILE = "{directory}/haproxy.cfg", "{directory}/nginx.conf"
PROGRAMS = {
    program.name: program
    for program in (
        Program(
            name="haproxy",
            file=_HAPROXY_FILE,
            check="/usr/sbin/haproxy -q -c -f",
            start=(("Type", "notify"), ("ExecStart", f"/usr/sbin/haproxy -Ws -f {_HAPROXY_FILE}")),
            reload="USR2",
            configuration=_haproxy,
        ),
        Program(
            name="nginx",
            file=_NGINX_FILE,
            check="/usr/sbin/nginx -q -t -c",
            # it goes to the background when it listens
            start=(
                ("Type", "forking"),
                ("PIDFile", "{directory}/nginx.pid"),
                ("ExecStart", f"/usr/sbin/nginx -c {_NGINX_FILE}"),
            ),
            reload="HUP",
            configuration=_nginx,
        ),
    )
}


def program_of(proxy: Description) -> Program:
    return PROGRAMS[proxy.get("program") or "haproxy"]


def template(proxy: Description, directory: str) -> list[str]:
    """The lines of the configuration, those of copies as C(fleetctl follow) takes them."""
    if proxy.get("template"):
        return [line.rstrip() for line in str(proxy["template"]).splitlines()]
    return program_of(proxy).configuration(proxy, directory)


def problems_of(proxy: Description) -> list[str]:
    """What is wrong with one description, as sentences without the name of the proxy."""
    found = []
    if bool(proxy.get("template")) == bool(proxy.get("listen")):
        found.append("give either listen, for a configuration made of it, or a template of one")
    if (proxy.get("program") or "haproxy") not in PROGRAMS:
        found.append(f'program is "{proxy["program"]}": allowed are {" and ".join(PROGRAMS)}')
    return [*found, *_listen_problems(proxy), *_template_problems(proxy)]


def _listen_problems(proxy: Description) -> list[str]:
    found = []
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
    return found


def _template_problems(proxy: Description) -> list[str]:
    found = []
    text = str(proxy.get("template") or "")
    for number, line in enumerate(text.splitlines(), 1):
        if len(line.encode()) > LINE_MAX:
            found.append(f"line {number} of template has {len(line.encode())} bytes, more than {LINE_MAX}")
        elif line.rstrip().endswith("\\") or not line.replace("\t", "").isprintable():
            found.append(
                f"line {number} of template ends with a backslash or holds a control character, which a unit file"
                " cannot hold: write it otherwise"
            )
    pid = f"pid {_directory(proxy)}/nginx.pid;"
    if text and proxy.get("program") == "nginx" and pid not in map(str.strip, text.splitlines()):
        found.append(f'template has no line "{pid}", by which systemd finds nginx: add it at the beginning')
    return found


def _directory(proxy: Description) -> str:
    return f"/run/flotilla-proxy-{proxy['name']}"


def _placement(proxy: Description) -> list[tuple[str, str]]:
    return [("Global", "true"), *(("MachineMetadata", str(text)) for text in proxy.get("metadata") or [])]


def sections(proxy: Description) -> dict[str, list[Section]]:
    """The units of a proxy by name, as their sections."""
    name = str(proxy["name"])
    unit, follower = f"{name}.service", f"{name}-follow.service"
    program, directory = program_of(proxy), _directory(proxy)
    file, check = program.file.format(directory=directory), program.check
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
                *((option, value.format(directory=directory)) for option, value in program.start),
                ("RuntimeDirectory", f"flotilla-proxy-{name}"),
                ("RuntimeDirectoryMode", "0750"),
                # its last configuration outlives a restart that etcd is not there for
                ("RuntimeDirectoryPreserve", "yes"),
                ("ExecStartPre", f'{follow} --once "--check={check} {{}}" {UNITS}/{unit} {file}'),
                ("ExecReload", f"{check} {file}"),
                ("ExecReload", f"/bin/kill -{program.reload} $MAINPID"),
                ("KillMode", "mixed"),
                ("SuccessExitStatus", "143"),
                ("Restart", "always"),
                ("RestartSec", "1"),
            ],
        ),
        ("X-Fleet", [*_placement(proxy), ("RollingUpdate", "1")]),
        (TEMPLATE_SECTION, [("Line", line) for line in template(proxy, directory) if line.strip()]),
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
