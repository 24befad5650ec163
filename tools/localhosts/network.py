# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster's bridge, its way out by address translation, and partitions between its hosts."""

from __future__ import annotations

import ipaddress
import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .plan import Cluster, HostsError, bridge_name, tag
from .system import Progress, run

_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
_INOTIFY_WANTED = 8192  # a booted host holds up to 9, and root's are counted together over all hosts
_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_IPTABLES_WAIT = "10"


@dataclass(frozen=True)
class Rule:
    """One rule of iptables: where it belongs and its arguments after the chain's name."""

    table: str
    chain: str
    arguments: tuple[str, ...]


def rules(cluster: Cluster) -> list[Rule]:
    """Rules that let hosts out and answers back in, also on a machine that forwards nothing by default."""
    bridge, subnet = bridge_name(cluster.name), str(cluster.subnet)

    def mark(what: str) -> tuple[str, ...]:
        return ("-m", "comment", "--comment", f"{_mark(cluster.name)}{what}")

    return [
        Rule(
            "nat",
            "POSTROUTING",
            ("-s", subnet, "!", "-d", subnet, *mark("out"), "-j", "MASQUERADE"),
        ),
        Rule("filter", "FORWARD", ("-i", bridge, *mark("from"), "-j", "ACCEPT")),
        Rule(
            "filter",
            "FORWARD",
            (
                "-o",
                bridge,
                "-m",
                "conntrack",
                "--ctstate",
                "RELATED,ESTABLISHED",
                *mark("to"),
                "-j",
                "ACCEPT",
            ),
        ),
    ]


def _mark(cluster: str) -> str:
    return f"flotilla:{cluster}:"


def rules_of(saved: str, cluster: str) -> list[Rule]:
    """A cluster's rules in the output of iptables-save, known by their comments."""
    found = []
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith("-A") and _mark(cluster) in line:
            _append, chain, *arguments = shlex.split(line)
            found.append(Rule(table, chain, tuple(arguments)))
    return found


def restore_text(changes: Iterable[tuple[str, Rule]]) -> str:
    """Input of ``iptables-restore --noflush`` for (action, rule) pairs, the action being -I or -D."""
    tables: dict[str, list[str]] = {}
    for action, rule in changes:
        tables.setdefault(rule.table, []).append(" ".join((action, rule.chain, *rule.arguments)))
    return "".join(
        f"*{table}\n" + "".join(f"{line}\n" for line in lines) + "COMMIT\n" for table, lines in tables.items()
    )


def _change_rules(changes: Sequence[tuple[str, Rule]]) -> None:
    if changes:
        run("iptables-restore", "--noflush", "--wait", _IPTABLES_WAIT, text=restore_text(changes))


def networks_in_use() -> list[ipaddress.IPv4Network]:
    """Networks that the machine has a route to, the default route aside."""
    found = []
    for route in json.loads(run("ip", "-j", "-4", "route", "show", "table", "all") or "[]"):
        destination = route.get("dst", "default")
        if destination != "default":
            found.append(ipaddress.IPv4Network(destination, strict=False))
    return found


def machine_mtu() -> int:
    """Largest packet of the machine's way out, 1500 at most; hosts use the same, as replies may be lost otherwise."""
    for route in json.loads(run("ip", "-j", "-4", "route", "show", "default") or "[]"):
        device = Path("/sys/class/net", route["dev"], "mtu")
        if device.exists():
            return min(1500, int(device.read_text()))
    return 1500


def raise_limits(progress: Progress) -> None:
    """Set the two kernel settings that hosts need; they stay, as others may rely on them by the time the hosts go."""
    for path, wanted in ((_INOTIFY, _INOTIFY_WANTED), (_FORWARD, 1)):
        now = int(path.read_text())
        if now < wanted:
            path.write_text(str(wanted))
            name = ".".join(path.parts[3:])
            progress.say(f"set {name} = {wanted} (was {now}); it stays so until the machine restarts")


def raise_bridge(cluster: Cluster, mtu: int) -> None:
    """Make or mend the cluster's bridge and its rules."""
    bridge = bridge_name(cluster.name)
    settings = Path("/proc/sys/net")
    commands = []
    if not Path("/sys/class/net", bridge).exists():
        # A fixed address: else a bridge takes its ports' lowest one, and hosts lose their gateway when that changes.
        octets = cluster.subnet.network_address.packed
        commands.append(
            f"link add name {bridge} address 02:79:{octets[1]:02x}:{octets[2]:02x}:00:01 mtu {mtu} type bridge"
            " stp_state 0 forward_delay 0"
        )
    commands += [
        f"addr replace {cluster.gateway}/{cluster.subnet.prefixlen} dev {bridge}",
        f"link set {bridge} up",
    ]
    run("ip", "-batch", "-", text="\n".join(commands) + "\n")
    # Hosts are called before they can answer: ask again soon, not after the kernel's second.
    (settings / "ipv4/neigh" / bridge / "retrans_time_ms").write_text("50")
    no_ipv6 = settings / "ipv6/conf" / bridge / "disable_ipv6"
    if no_ipv6.exists():
        no_ipv6.write_text("1")
    have, wanted = rules_of(run("iptables-save"), cluster.name), rules(cluster)
    if {frozenset(rule.arguments) for rule in have} != {frozenset(rule.arguments) for rule in wanted}:
        _change_rules([*(("-D", rule) for rule in have), *(("-I", rule) for rule in wanted)])


def remove_network(cluster: str, progress: Progress) -> None:
    """Remove the bridge, left-over cables, rules and partitions of a cluster; what is missing is fine."""
    own = [path.name for path in Path("/sys/class/net").glob(f"vb-{tag(cluster)}-*") if _number(path.name)]
    bridge = bridge_name(cluster)
    if Path("/sys/class/net", bridge).exists():
        own.append(bridge)
    for name in own:
        try:
            run("ip", "link", "delete", name)
        except HostsError:
            if Path("/sys/class/net", name).exists():  # else it went with its host in the meantime
                raise
    have = rules_of(run("iptables-save"), cluster)
    _change_rules([("-D", rule) for rule in have])
    if cuts(cluster) is not None:
        run("nft", "delete", "table", "bridge", _table(cluster))
    if own or have:
        progress.say(f"removed {', '.join(own) or 'no interface'} and {len(have)} firewall rules")


def _number(interface: str) -> bool:
    return interface.rpartition("-")[2].isdigit()


def _table(cluster: str) -> str:
    return "flotilla_" + cluster.replace("-", "_")


def cuts(cluster: str) -> list[tuple[str, str]] | None:
    """(from, to) interface pairs whose frames are dropped now; None when nothing was ever cut."""
    tables = json.loads(run("nft", "--json", "list", "tables", "bridge")).get("nftables", [])
    if not any(entry.get("table", {}).get("name") == _table(cluster) for entry in tables):
        return None
    listed = json.loads(run("nft", "--json", "list", "set", "bridge", _table(cluster), "cut"))
    for entry in listed["nftables"]:
        if "set" in entry:
            elements = entry["set"].get("elem", [])
            return sorted((str(element["concat"][0]), str(element["concat"][1])) for element in elements)
    return []


def cut(cluster: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Drop every frame, ARP included, that goes between the interfaces of each (from, to) pair.

    The rule names interfaces, not addresses, so it also holds for a host that is started again later.
    """
    name = _table(cluster)
    elements = ", ".join(f'"{source}" . "{destination}"' for source, destination in pairs)
    text = (
        f"table bridge {name} {{\n"
        "  set cut { type ifname . ifname; }\n"
        "  chain forward {\n"
        "    type filter hook forward priority filter; policy accept;\n"
        "  }\n"
        "}\n"
        f"flush chain bridge {name} forward\n"
        f"add rule bridge {name} forward iifname . oifname @cut drop\n"
        f"add element bridge {name} cut {{ {elements} }}\n"
    )
    run("nft", "-f", "-", text=text)


def mend(cluster: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Let frames through again between the interfaces of each pair, or everywhere when no pair is given."""
    have = cuts(cluster)
    if have is None:
        return
    if not pairs:
        run("nft", "delete", "table", "bridge", _table(cluster))
        return
    gone = [pair for pair in pairs if pair in have]
    if gone:
        elements = ", ".join(f'"{source}" . "{destination}"' for source, destination in gone)
        run("nft", "delete", "element", "bridge", _table(cluster), "cut", f"{{ {elements} }}")
