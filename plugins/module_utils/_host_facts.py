# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
# Do not use this code from other collections or standalone plugins and modules!

"""What C(host_info) reads: parsers that take text, and one function that reads the host.

Nearly all comes from /proc, /etc and one netlink question; only dpkg and systemd-detect-virt are started, at the same
time as the rest is read. The parsers are pure, so that tests can feed them files of other machines.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
import time
import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils import _seal

PACKAGE_NAME = re.compile(r"^[a-z0-9][a-z0-9+.-]+$")
ALL_PACKAGES = "*"
TEXT_LIMIT = 4096  # characters of a file that is looked at
DPKG_QUERY = ("dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package} ${Version}\n")
TCP_LISTEN, UDP_UNCONNECTED = "0A", "07"
# Documentation prefixes (RFC 5737, RFC 3849): "connecting" a UDP socket sends nothing, it only asks the routing table.
ROUTE_PROBES = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


class Listener(t.NamedTuple):
    proto: str
    address: str
    port: int
    inode: str


# --- parsers ------------------------------------------------------------------------------------------------------


def parse_os_release(text: str) -> dict[str, str]:
    """The fields of os-release that roles use; missing ones are empty."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.strip().partition("=")
        if separator and not key.startswith("#"):
            if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
                value = value[1:-1]
            values[key] = re.sub(r"\\(.)", r"\1", value)
    return {
        "id": values.get("ID", "linux"),
        "version_id": values.get("VERSION_ID", ""),
        "codename": values.get("VERSION_CODENAME", ""),
        "pretty_name": values.get("PRETTY_NAME", ""),
    }


def _address(text: str) -> str:
    # The kernel prints each 32-bit word of an address as a number in the byte order of the machine.
    words = [struct.pack("=I", int(text[i : i + 8], 16)) for i in range(0, len(text), 8)]
    raw = b"".join(words)
    if len(raw) == 16 and raw.startswith(b"\0" * 10 + b"\xff\xff"):
        raw = raw[12:]
    return socket.inet_ntop(socket.AF_INET6 if len(raw) == 16 else socket.AF_INET, raw)


def parse_sockets(proto: str, text: str) -> list[Listener]:
    """Sockets that wait for peers in a table like /proc/net/tcp6; `proto` is "tcp" or "udp"."""
    wanted = TCP_LISTEN if proto == "tcp" else UDP_UNCONNECTED
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == wanted:
            address, port = fields[1].split(":")
            found.append(Listener(proto, _address(address), int(port, 16), fields[9]))
    return found


def parse_unit(text: str) -> str:
    """The systemd unit in the content of /proc/<pid>/cgroup; "" when there is none."""
    best = ""
    for line in text.splitlines():
        _number, controllers, path = line.split(":", 2)
        if controllers in ("", "name=systemd"):
            for part in path.split("/"):
                if part.endswith((".service", ".socket", ".scope", ".mount")):
                    best = part
    return best


def parse_addresses(messages: bytes, names: t.Callable[[int], str]) -> dict[str, list[str]]:
    """Interfaces and their addresses from the answer to a netlink RTM_GETADDR dump; loopback is left out.

    `names` gives the name of an interface by its index.
    """
    found: dict[str, list[str]] = {}
    offset = 0
    while offset + 16 <= len(messages):
        length, kind = struct.unpack_from("=IH", messages, offset)
        if length < 16 or offset + length > len(messages):
            break
        if kind == 20:  # RTM_NEWADDR: struct ifaddrmsg, then attributes
            family, _prefix, _flags, scope, index = struct.unpack_from("=BBBBI", messages, offset + 16)
            attributes: dict[int, bytes] = {}
            position = offset + 24
            while position + 4 <= offset + length:
                size, attribute = struct.unpack_from("=HH", messages, position)
                if size < 4:
                    break
                attributes[attribute] = messages[position + 4 : position + size]
                position += (size + 3) & ~3
            # IFA_LOCAL is the own end, IFA_ADDRESS the peer of a point-to-point link; IPv6 has only the latter.
            raw = attributes.get(2) or attributes.get(1)
            if raw and scope != 254 and family in (socket.AF_INET, socket.AF_INET6):
                address = socket.inet_ntop(family, raw)
                if not address.startswith("127.") and address != "::1":
                    found.setdefault(names(index), []).append(address)
        offset += (length + 3) & ~3
    return found


def parse_routes(ipv4: str, ipv6: str) -> list[dict[str, str]]:
    """Networks that a host reaches in other ways than by its default route, from /proc/net/route and ipv6_route.

    Each is a dictionary with the interface and the network as address/length; single addresses and what is local to a
    link are left out.
    """
    found = []
    for line in ipv4.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and int(fields[3], 16) & 1:  # RTF_UP
            length = bin(int(fields[7], 16)).count("1")
            if 0 < length < 32:
                found.append({"interface": fields[0], "network": f"{_address(fields[1])}/{length}"})
    for line in ipv6.splitlines():
        fields = line.split()
        if len(fields) > 9 and fields[9] != "lo":
            length = int(fields[1], 16)
            address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(fields[0]))
            if 0 < length < 128 and not address.startswith(("fe80:", "ff")):
                found.append({"interface": fields[9], "network": f"{address}/{length}"})
    return [entry for number, entry in enumerate(found) if entry not in found[:number]]


def parse_packages(text: str) -> dict[str, str]:
    """Installed packages from dpkg-query's "status name version" lines."""
    packages = {}
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) == 3 and fields[0] == "installed":
            packages[fields[1]] = fields[2]
    return packages


def parse_names(text: str) -> list[str]:
    """Account names of /etc/passwd or /etc/group."""
    return [line.split(":", 1)[0] for line in text.splitlines() if line and line[0] not in "#+-"]


# --- reading ------------------------------------------------------------------------------------------------------


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def _start(argv: list[str]) -> subprocess.Popen[bytes] | None:
    try:
        # module.run_command would wait for each command; these run side by side
        return subprocess.Popen(  # pylint: disable=ansible-bad-function
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError:
        return None


def _finish(process: subprocess.Popen[bytes] | None) -> str:
    if process is None:
        return ""
    try:
        return process.communicate(timeout=20)[0].decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return ""


def _interface_name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)


def read_interfaces() -> dict[str, list[str]]:
    """Interfaces with their addresses, without loopback."""
    request = struct.pack("=IHHII", 24, 22, 0x301, 1, 0) + bytes(8)  # RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP
    answer = b""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
            netlink.settimeout(5)
            netlink.sendto(request, (0, 0))
            while True:
                piece = netlink.recv(65536)
                answer += piece
                # The dump ends with NLMSG_DONE (3), which comes first in a message of its own or last in one.
                if not piece or _has_end(piece):
                    break
    except OSError:
        return {}
    return parse_addresses(answer, _interface_name)


def _has_end(messages: bytes) -> bool:
    offset = 0
    while offset + 16 <= len(messages):
        length, kind = struct.unpack_from("=IH", messages, offset)
        if kind in (2, 3) or length < 16:
            return True
        offset += (length + 3) & ~3
    return False


def read_default_address() -> str:
    """The address this host uses towards the world: IPv4 when there is a route, else IPv6, else empty."""
    for family, probe in ROUTE_PROBES:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probing:
                probing.connect((probe, 9))
                return str(probing.getsockname()[0])
        except OSError:
            continue
    return ""


def read_listening() -> list[dict[str, t.Any]]:
    """Ports that somebody listens on, with the process and the systemd unit it belongs to, as far as can be seen."""
    listeners: list[Listener] = []
    for proto in ("tcp", "udp"):
        for suffix in ("", "6"):
            listeners += parse_sockets(proto, _read(f"/proc/net/{proto}{suffix}"))
    holders = _holders({entry.inode for entry in listeners})
    socket_units: dict[str, str] | None = None
    found = []
    for entry in sorted(listeners, key=lambda entry: (entry.proto, entry.port, entry.address)):
        pid = holders.get(entry.inode, 0)
        unit = parse_unit(_read(f"/proc/{pid}/cgroup")) if pid else ""
        if pid == 1:
            # Waiting for a socket unit: nothing in /proc says which.
            if socket_units is None:
                socket_units = _socket_units()
            unit = socket_units.get(_endpoint(entry.address, entry.port), socket_units.get(str(entry.port), unit))
        found.append(
            {
                "proto": entry.proto,
                "address": entry.address,
                "port": entry.port,
                "pid": pid,
                "process": _read(f"/proc/{pid}/comm").strip() if pid else "",
                "unit": unit,
            }
        )
    return found


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _socket_units() -> dict[str, str]:
    """Socket units by endpoint as systemd prints it, and by port alone for those on all addresses."""
    units = {}
    text = _finish(_start(["systemctl", "list-sockets", "--no-pager", "--no-legend", "--full"]))
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 1 and not fields[0].startswith("/"):
            units[fields[0]] = fields[1]
            units.setdefault(fields[0].rpartition(":")[2], fields[1])
    return units


def _holders(inodes: set[str]) -> dict[str, int]:
    """Which process holds each socket. Where PID 1 and a service share one, the service is named."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes if inode != "0"}
    found: dict[str, int] = {}
    pids = sorted((int(name) for name in os.listdir("/proc") if name.isdigit()), reverse=True)
    for pid in pids:
        if len(found) == len(wanted):
            break
        try:
            handles = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for handle in handles:
            try:
                inode = wanted.get(os.readlink(f"/proc/{pid}/fd/{handle}"))
            except OSError:
                continue
            if inode:
                found.setdefault(inode, pid)
    return found


def read_apt_cache_age(now: float, root: str = "/") -> int | None:
    """Seconds since the package lists were updated; None when there are none."""
    lists = os.path.join(root, "var/lib/apt/lists")
    try:
        names = os.listdir(lists)
    except OSError:
        return None
    if not any(name.endswith(("_InRelease", "_Release")) for name in names):
        return None
    newest = 0.0
    # apt sets the times of the lists themselves to those of the server, so only the directories tell.
    for path in (
        lists,
        os.path.join(lists, "partial"),
        os.path.join(root, "var/lib/apt/periodic/update-success-stamp"),
    ):
        try:
            newest = max(newest, os.stat(path).st_mtime)
        except OSError:
            continue
    return max(0, int(now - newest))


def read_ntp_synchronized() -> bool | None:
    """Whether the kernel's clock is disciplined, asked like timedated does; None where that is not allowed."""
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(512)  # struct timex, zeroed: modes 0 only reads
        if libc.adjtimex(buffer) < 0:
            return None
        # long maxerror follows "unsigned int modes; long offset, freq" in the C layout
        size = ctypes.sizeof(ctypes.c_long)
        maxerror = ctypes.c_long.from_buffer(buffer, 3 * size).value
    except (ImportError, OSError, AttributeError, ValueError):
        return None
    return maxerror < 16_000_000


def client_address(connection: str) -> str:
    """The client in the text of SSH_CONNECTION, without the zone of a link-local address; "" for anything else."""
    fields = connection.split()
    address = fields[0].partition("%")[0] if len(fields) == 4 else ""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            raw = socket.inet_pton(family, address)
        except OSError:
            continue
        mapped = family == socket.AF_INET6 and raw.startswith(b"\0" * 10 + b"\xff\xff")
        return socket.inet_ntop(socket.AF_INET, raw[12:]) if mapped else address
    return ""


def read_client_address() -> str:
    """Where the ssh connection comes from; sudo has taken that from the environment, but not from its parents'."""
    environment, pid = os.environ.get("SSH_CONNECTION", ""), os.getppid()
    while pid > 1 and not client_address(environment):
        found = re.search(r"(?:^|\0)SSH_CONNECTION=([^\0]+)", _read(f"/proc/{pid}/environ"))
        environment = found.group(1) if found else ""
        parent = re.search(r"^PPid:\s+(\d+)", _read(f"/proc/{pid}/status"), re.MULTILINE)
        pid = int(parent.group(1)) if parent else 0
    return client_address(environment)


def read_path(path: str) -> dict[str, str]:
    """What is at a path: its kind, one of absent, file, directory, other, the beginning of a file's text, and where a
    symbolic link points."""
    if os.path.isdir(path):
        kind = "directory"
    elif os.path.isfile(path):
        kind = "file"
    else:
        kind = "other" if os.path.lexists(path) else "absent"
    return {
        "kind": kind,
        "text": _read(path)[:TEXT_LIMIT] if kind == "file" else "",
        "target": os.readlink(path) if os.path.islink(path) else "",
    }


def read_host(
    packages: t.Sequence[str],
    ports: bool,
    look_at: t.Mapping[str, str] | None = None,
    seals: t.Mapping[str, str] | None = None,
) -> dict[str, t.Any]:
    """Read everything C(host_info) returns. Raises ValueError for a name that no package can have."""
    for name in packages:
        if name != ALL_PACKAGES and not PACKAGE_NAME.match(name):
            raise ValueError(
                f"packages: {name!r} cannot be the name of a package; use lower-case letters, digits, '+', '.' and '-'."
            )
    names = [] if ALL_PACKAGES in packages else packages  # without names dpkg-query shows all
    dpkg = _start([*DPKG_QUERY, *names]) if packages else None
    detect = _start(["systemd-detect-virt"])
    now = time.time()
    booted = os.path.isdir("/run/systemd/system")
    memory = re.search(r"^MemTotal:\s+(\d+)", _read("/proc/meminfo"), re.MULTILINE)
    interfaces = read_interfaces()
    host: dict[str, t.Any] = {
        "os": parse_os_release(_read("/etc/os-release") or _read("/usr/lib/os-release")),
        "arch": os.uname().machine,
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "machine_id": _read("/etc/machine-id").strip(),
        "boot_id": _read("/proc/sys/kernel/random/boot_id").strip(),
        "hostname": os.uname().nodename,
        "ntp_synchronized": read_ntp_synchronized(),
        "addresses": sorted({address for addresses in interfaces.values() for address in addresses}),
        "default_address": read_default_address(),
        "interfaces": interfaces,
        "networks": parse_routes(_read("/proc/net/route"), _read("/proc/net/ipv6_route")),
        "client_address": read_client_address(),
        "users": parse_names(_read("/etc/passwd")),
        "groups": parse_names(_read("/etc/group")),
        "init": "systemd" if booted else _read("/proc/1/comm").strip() or "unknown",
        "memory_mb": int(memory.group(1)) // 1024 if memory else 0,
        "cpus": os.cpu_count() or 1,
        "apt_cache_age": read_apt_cache_age(now),
    }
    host["paths"] = {name: read_path(str(path)) for name, path in (look_at or {}).items()}
    host["seals"] = {name: _seal.read(str(path)) for name, path in (seals or {}).items()}
    if ports:
        host["listening"] = read_listening()
    host["packages"] = parse_packages(_finish(dpkg))
    host["virtualization"] = _finish(detect).strip() or "none"
    # Last, so that it is as close as possible to the time at which the controller gets it.
    host["time"] = time.time()
    return host
