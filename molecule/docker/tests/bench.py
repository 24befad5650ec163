# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recommendations of the CIS benchmark for docker about host and daemon, by the numbers of docker-bench-security.

The program itself is a shell script that none of the package registries here has; `findings` judges the same facts.
"""

from __future__ import annotations

import json
from typing import Any

#: Run on a host, prints what `findings` takes.
FACTS = r"""
import glob, grp, json, os, pwd, subprocess
def run(*argv):
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.strip()
def stat(path):
    found = os.stat(path)
    mode = oct(found.st_mode & 0o777)[2:]
    return [pwd.getpwuid(found.st_uid).pw_name, grp.getgrgid(found.st_gid).gr_name, mode]
daemon = json.load(open("/etc/docker/daemon.json"))
paths = ["/etc/docker", "/etc/docker/daemon.json", "/run/docker.sock", *glob.glob("/etc/docker/certs.d/*/*")]
paths += [run("systemctl", "show", "-P", "FragmentPath", unit) for unit in ("docker.service", "docker.socket")]
paths += [daemon[key] for key in ("tlscacert", "tlscert", "tlskey") if key in daemon]
pid = run("systemctl", "show", "-P", "MainPID", "docker.service")
print(json.dumps({
    "daemon": daemon,
    "info": json.loads(run("docker", "info", "--format", "{{json .}}")),
    "files": {path: stat(path) for path in paths},
    "members": grp.getgrnam("docker").gr_mem,
    "uid": os.stat(f"/proc/{pid}").st_uid,
    "audit": run("auditctl", "-l") if os.path.exists("/sbin/auditctl") else "",
    "listening": [line.split()[3] for line in run("ss", "-H", "-ltnp").splitlines() if "dockerd" in line],
}))
"""


def _owned(found: dict[str, Any], path: str, owner: str, mode: int) -> bool:
    user, group, bits = found["files"][path]
    return f"{user}:{group}" == owner and int(bits, 8) & ~mode == 0


def findings(found: dict[str, Any]) -> dict[str, bool]:
    """Whether each recommendation is followed, by its number."""
    daemon, info, files = found["daemon"], found["info"], found["files"]
    options = " ".join(info.get("SecurityOptions") or [])
    units = [path for path in files if path.endswith((".service", ".socket"))]
    registries = [path for path in files if path.startswith("/etc/docker/certs.d/")]
    insecure = [name for name in (info["RegistryConfig"]["IndexConfigs"] or {}).values() if not name["Secure"]]
    return {
        "1.1.2 nobody is in the group docker": found["members"] == [],
        "1.1.3 docker's files are audited": "docker" in found["audit"],
        "2.1 docker runs without root": found["uid"] != 0,
        "2.2 icc is off": daemon.get("icc") is False,
        "2.3 the log level is info": daemon.get("log-level", "info") == "info",
        "2.4 docker may change iptables": daemon.get("iptables", True) is True,
        "2.5 no registry is insecure": insecure == [],
        "2.6 the storage driver is not aufs": info["Driver"] != "aufs",
        "2.7 TCP only with certificates on both sides": not found["listening"] or daemon.get("tlsverify") is True,
        "2.8 ulimits have defaults": "default-ulimits" in daemon,
        "2.9 user namespaces": "name=userns" in options,
        "2.10 the parent of cgroups is docker's own": "cgroup-parent" not in daemon,
        "2.12 an authorization plugin": bool(daemon.get("authorization-plugins")),
        "2.13 logs leave the host": info["LoggingDriver"] not in ("json-file", "local", "journald"),
        "2.14 no new privileges": daemon.get("no-new-privileges") is True,
        "2.15 live restore": info["LiveRestoreEnabled"] is True,
        "2.16 no userland proxy": daemon.get("userland-proxy") is False,
        "2.17 a seccomp profile": "name=seccomp" in options,
        "2.18 no experimental features": info["ExperimentalBuild"] is False,
        "3.1 units belong to root and are 644": all(_owned(found, path, "root:root", 0o644) for path in units),
        "3.5 /etc/docker belongs to root and is 755": _owned(found, "/etc/docker", "root:root", 0o755),
        "3.7 authorities of registries are root's and 644": all(
            _owned(found, path, "root:root", 0o644) for path in registries
        ),
        "3.9 TLS authority and certificate are root's and 644": all(
            _owned(found, daemon[key], "root:root", 0o644) for key in ("tlscacert", "tlscert") if key in daemon
        ),
        "3.13 the TLS key is root's and 400": "tlskey" not in daemon
        or _owned(found, daemon["tlskey"], "root:root", 0o400),
        "3.15 docker.sock is root:docker 660": _owned(found, "/run/docker.sock", "root:docker", 0o660),
        "3.17 daemon.json belongs to root and is 644": _owned(found, "/etc/docker/daemon.json", "root:root", 0o644),
        "rotation: logs cannot fill the disk": {"max-size", "max-file"} <= set(daemon.get("log-opts") or {}),
    }


def differences(found: dict[str, bool], baseline: str) -> list[str]:
    """What is not as the committed baseline says: recommendations not followed, and what it accepts for no reason."""
    accepted = json.loads(baseline)
    return sorted(
        [f"not followed: {name}" for name, followed in found.items() if not followed and name not in accepted]
        + [f"followed by now, take it out of the baseline: {name}" for name in accepted if found.get(name, True)]
    )
