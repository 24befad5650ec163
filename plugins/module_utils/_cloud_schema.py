# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""What a CoreOS cloud-config may hold: every key, its type, its values, and where it ends up. Tables only."""

from __future__ import annotations

import re
import typing as t

HEADER = "#cloud-config"

Type = str  # "str", "bool", "int", "float", "list" (of str)


class Key(t.NamedTuple):
    """One key. C(env) is the variable it becomes, C(pattern) what values match, C(allowed) says the same in words."""

    type: Type = "str"
    env: str = ""
    pattern: str = ""
    allowed: str = ""
    deprecated: str = ""
    secret: bool = False


class Section(t.NamedTuple):
    """One section of C(coreos) that becomes environment variables of one unit, in the order of its keys."""

    keys: t.Mapping[str, Key]
    unit: str  # "" for flannel, whose variables go to a file of their own
    deprecated: str = ""


def _keys(prefix: str, words: str, **special: Key) -> dict[str, Key]:
    """Keys of a section in their order: C(name:type), text when it has no type; C(special) replaces single ones."""
    found = {}
    for word in words.split():
        name, _colon, type_ = word.partition(":")
        key = special.get(name, Key())
        found[name] = key._replace(type=type_ or key.type, env=key.env or f"{prefix}_{name.upper()}")
    return found


_TWO = "is a key of etcd 2, which etcd 0.4 does not know"
_NEWER = """advertise_client_urls discovery_fallback discovery_srv discovery_proxy election_timeout force_new_cluster
    heartbeat_interval initial_advertise_peer_urls initial_cluster initial_cluster_state initial_cluster_token
    listen_client_urls listen_peer_urls max_snapshots max_wals proxy"""

ETCD = _keys(
    "ETCD",
    "addr advertise_client_urls bind_addr ca_file cert_file cluster_active_size:int cluster_remove_delay:float"
    " cluster_sync_interval:float cors data_dir discovery discovery_fallback discovery_srv discovery_proxy"
    " election_timeout:int force_new_cluster:bool graphite_host heartbeat_interval:int http_read_timeout:float"
    " http_write_timeout:float initial_advertise_peer_urls initial_cluster initial_cluster_state"
    " initial_cluster_token key_file listen_client_urls listen_peer_urls max_result_buffer:int"
    " max_retry_attempts:int max_snapshots:int max_wals:int name peer_addr peer_bind_addr peer_ca_file"
    " peer_cert_file peer_key_file peer_election_timeout:int peer_heartbeat_interval:int peers peers_file proxy"
    " retry_interval:float snapshot:bool snapshot_count:int trace verbose:bool very_verbose:bool"
    " very_very_verbose:bool",
    snapshot_count=Key(env="ETCD_SNAPSHOTCOUNT"),
    **{name: Key(deprecated=_TWO) for name in _NEWER.split()},
)

ETCD2 = _keys(
    "ETCD",
    "advertise_client_urls ca_file cert_file client_cert_auth:bool cors data_dir debug:bool discovery"
    " discovery_fallback discovery_srv discovery_proxy election_timeout:int enable_pprof:bool force_new_cluster:bool"
    " heartbeat_interval:int initial_advertise_peer_urls initial_cluster initial_cluster_state initial_cluster_token"
    " key_file listen_client_urls listen_peer_urls log_package_levels max_snapshots:int max_wals:int name"
    " peer_ca_file peer_cert_file peer_key_file peer_client_cert_auth:bool peer_trusted_ca_file proxy"
    " proxy_dial_timeout:int proxy_failure_wait:int proxy_read_timeout:int proxy_refresh_interval:int"
    " proxy_write_timeout:int snapshot_count:int strict_reconfig_check:bool trusted_ca_file wal_dir",
    ca_file=Key(deprecated="has given way to trusted_ca_file"),
    peer_ca_file=Key(deprecated="has given way to peer_trusted_ca_file"),
    proxy=Key(pattern="on|off|readonly", allowed="on, off or readonly"),
)

FLEET = _keys(
    "FLEET",
    "agent_ttl authorized_keys_file disable_engine:bool engine_reconcile_interval:float etcd_cafile etcd_certfile"
    " etcd_keyfile etcd_key_prefix etcd_request_timeout:float etcd_servers etcd_username etcd_password metadata"
    " public_ip token_limit:int verbosity:int verify_units:bool",
    etcd_password=Key(secret=True),
)

FLANNEL = _keys(
    "FLANNELD",
    "etcd_endpoints etcd_cafile etcd_certfile etcd_keyfile etcd_prefix etcd_username etcd_password ip_masq"
    " subnet_file interface public_ip",
    interface=Key(env="FLANNELD_IFACE"),
    etcd_password=Key(secret=True),
)

_DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
LOCKSMITH = _keys(
    "LOCKSMITHD",
    "endpoint etcd_cafile etcd_certfile etcd_keyfile etcd_username etcd_password group window_start window_length",
    etcd_password=Key(secret=True),
    window_start=Key(
        env="REBOOT_WINDOW_START",
        pattern=rf"(?i:{_DAY} )?0*([0-9]|1[0-9]|2[0-3]):0*([0-9]|[1-5][0-9])",
        allowed="a time of day such as 03:00, or Thu 03:00",
    ),
    window_length=Key(
        env="REBOOT_WINDOW_LENGTH",
        pattern=r"[-+]?([0-9]+(\.[0-9]*)?[a-z]+)+",
        allowed="a duration such as 30m or 1h30m",
    ),
)

#: In the order in which the original writes them.
SECTIONS: dict[str, Section] = {
    "etcd": Section(
        ETCD, "etcd.service", "is etcd 0.4, which no system ships any more; use etcd2 or units of your own"
    ),
    "etcd2": Section(ETCD2, "etcd2.service", "is etcd 2, which no system ships any more; its drop-in does no harm"),
    "fleet": Section(FLEET, "fleet.service", "is for a fleet.service that the image or a unit of yours must bring"),
    "locksmith": Section(LOCKSMITH, "locksmithd.service"),
    "flannel": Section(FLANNEL, ""),
}

#: There was a best-effort once; the last version of the original refuses the document for it.
STRATEGIES = ("etcd-lock", "reboot", "off")
UPDATE = {
    "reboot_strategy": Key(env="REBOOT_STRATEGY", pattern="|".join(STRATEGIES), allowed=", ".join(STRATEGIES)),
    "group": Key(env="GROUP"),
    "server": Key(env="SERVER"),
}
OEM = {name: Key() for name in ("id", "name", "version_id", "home_url", "bug_report_url")}

COMMANDS = ("start", "stop", "restart", "reload", "try-restart", "reload-or-restart", "reload-or-try-restart")
DROP_IN = {"name": Key(), "content": Key()}
UNIT = {
    "name": Key(),
    "runtime": Key("bool"),
    "enable": Key("bool"),
    "mask": Key("bool"),
    "content": Key(),
    "command": Key(pattern="|".join(COMMANDS), allowed=", ".join(COMMANDS)),
}

ENCODINGS = ("b64", "base64", "gz", "gzip", "gz+base64", "gzip+base64", "gz+b64", "gzip+b64")
FILE = {
    "path": Key(),
    "content": Key(),
    "permissions": Key(pattern="0?[0-7]{3,4}", allowed="three or four octal digits in quotes, such as '0644'"),
    "owner": Key(),
    "encoding": Key(pattern="|".join(re.escape(one) for one in ENCODINGS), allowed=", ".join(ENCODINGS)),
}

_IMPORT = "fetches keys over the network at boot; give them as ssh_authorized_keys"
USER = {
    "name": Key(),
    "passwd": Key(secret=True),
    "gecos": Key(),
    "homedir": Key(),
    "no_create_home": Key("bool"),
    "primary_group": Key(),
    "groups": Key("list"),
    "no_user_group": Key("bool"),
    "system": Key("bool"),
    "no_log_init": Key("bool"),
    "shell": Key(),
    "ssh_authorized_keys": Key("list"),
    "coreos_ssh_import_github": Key(deprecated=_IMPORT),
    "coreos_ssh_import_github_users": Key("list", deprecated=_IMPORT),
    "coreos_ssh_import_url": Key(deprecated=_IMPORT),
}
#: Documented once, read by no version.
USER_NEVER = ("sudo", "lock_passwd", "inactive", "selinux_user", "ssh_import_id")

TOP = {
    "hostname": Key(),
    "ssh_authorized_keys": Key("list"),
    "manage_etc_hosts": Key(pattern="localhost", allowed="localhost"),
}

# What the neutral model has beyond CoreOS.
LINK = {"path": Key(), "target": Key()}
DIRECTORY = {
    "path": Key(),
    "permissions": FILE["permissions"],
    "owner": Key(),
}
ROUTE = {"to": Key(), "via": Key()}
INTERFACE = {
    "name": Key(),
    "mac": Key(pattern="[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}", allowed="six pairs of hexadecimal digits with colons"),
    "dhcp": Key("bool"),
    "addresses": Key("list"),
    "gateway": Key(),
    "dns": Key("list"),
    "mtu": Key("int"),
    "bond": Key(),
    "bond_mode": Key(),
    "vlan_id": Key("int"),
    "vlan_link": Key(),
}
FILESYSTEM = {
    "device": Key(),
    "path": Key(),
    "format": Key(pattern="ext4|xfs|btrfs|vfat|swap", allowed="ext4, xfs, btrfs, vfat or swap"),
    "label": Key(),
    "wipe": Key("bool"),
}

UNIT_SUFFIXES = (
    "service", "socket", "target", "timer", "mount", "automount", "path", "slice", "scope", "swap", "device",
    "network", "netdev", "link",
)  # fmt: skip
NETWORK_SUFFIXES = ("network", "netdev", "link")

VARIABLES = ("public_ipv4", "private_ipv4", "public_ipv6", "private_ipv6")

Schema = t.Union[Key, t.Mapping[str, t.Any], list[t.Any]]

#: The whole document: a mapping is a mapping with these keys, a list of one is a list of such.
DOCUMENT: dict[str, Schema] = {
    **TOP,
    "users": [USER],
    "write_files": [FILE],
    "coreos": {
        **{name: section.keys for name, section in SECTIONS.items()},
        "update": UPDATE,
        "oem": OEM,
        "units": [{**UNIT, "drop_ins": [DROP_IN]}],
    },
}
EXTENSIONS: dict[str, Schema] = {
    "packages": Key("list"),
    "groups": Key("list"),
    "links": [LINK],
    "directories": [DIRECTORY],
    "networks": [{**INTERFACE, "routes": [ROUTE]}],
    "filesystems": [FILESYSTEM],
}
#: What names an entry of a list; two of the same name contradict each other.
NAMES = {
    "users": "name",
    "write_files": "path",
    "coreos.units": "name",
    "coreos.units.drop_ins": "name",
    "links": "path",
    "directories": "path",
    "networks": "name",
    "filesystems": "path",
}
