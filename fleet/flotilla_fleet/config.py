# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""fleetd's configuration: ``fleet.conf`` and ``FLEET_*`` variables, with upstream's keys and some of our own."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from .registry import DEFAULT_PREFIX, normal_prefix

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_IGNORED = {"verify_units", "authorized_keys_file", "enable_grpc", "disable_watches"}
"""Keys of upstream that mean nothing here; they are accepted so that an old file still works."""


class ConfigError(ValueError):
    """A setting that cannot be used; the text names the key, the value and what is allowed."""


@dataclass(frozen=True)
class Config:
    """Settings by the names they have in the file. Times are in seconds."""

    verbosity: int = 0
    etcd_servers: tuple[str, ...] = ("http://127.0.0.1:2379",)
    etcd_username: str = ""
    etcd_password: str = field(default="", repr=False)
    etcd_credentials: str = ""
    etcd_cafile: str = ""
    etcd_certfile: str = ""
    etcd_keyfile: str = ""
    etcd_key_prefix: str = DEFAULT_PREFIX
    etcd_request_timeout: float = 2.0
    engine_reconcile_interval: float = 2.0
    public_ip: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    agent_ttl: float = 30.0
    partition_grace: float = 10.0
    units_directory: str = "/run/fleet/units/"
    state_directory: str = "/run/fleet/agent/"
    systemd_user: bool = False
    token_limit: int = 100
    disable_engine: bool = False
    socket: str = "/run/fleet.sock"
    listen: str = ""
    listen_cafile: str = ""
    listen_certfile: str = ""
    listen_keyfile: str = ""

    @property
    def machine_ttl(self) -> int:
        """Time to live of the machine's lease, whole seconds, at least 2 (etcd gives no shorter lease anyway)."""
        return max(2, round(self.agent_ttl))

    @property
    def engine_ttl(self) -> int:
        """Time to live of leadership: upstream's five intervals, but never longer than a machine is given."""
        return max(2, min(round(5 * self.engine_reconcile_interval), self.machine_ttl))


@dataclass(frozen=True)
class Login:
    """A user of etcd; without a name requests are nobody's."""

    name: str = ""
    password: str = field(default="", repr=False)


PARTS = ("machine", "engine", "api")
"""The parts of fleetd that may be users of etcd of their own, each allowed to write what it has to."""


def logins(config: Config) -> dict[str, Login]:
    """The user of each part: from the file ``etcd_credentials``, else ``etcd_username`` for all.

    The file has a line ``part=user:password`` for each; the engine needs none where it is disabled.
    """
    if not config.etcd_credentials:
        return dict.fromkeys(PARTS, Login(config.etcd_username, config.etcd_password))
    path = Path(config.etcd_credentials)
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"cannot read etcd_credentials: {exc}") from None
    found: dict[str, Login] = {}
    for line in lines:
        part, _equals, text = line.partition("=")
        name, colon, password = text.partition(":")
        if part not in PARTS or not (name and colon and password):
            # the line may be a password: it is not shown
            raise ConfigError(f"{path} has a line that is not part=user:password with a part of {', '.join(PARTS)}")
        found[part] = Login(name, password)
    missing = [part for part in PARTS if part not in found and not (part == "engine" and config.disable_engine)]
    if missing:
        raise ConfigError(f"{path} has no user for {' and '.join(missing)}: add {missing[0]}=user:password")
    return found


def duration(key: str, text: str) -> float:
    """Seconds of a Go duration ("30s", "1m30s") or of a bare number of seconds."""
    try:
        return _not_negative(key, float(text))
    except ConfigError:
        raise
    except ValueError:
        pass
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ConfigError(f"{key} is {text!r}; allowed is a duration such as 30s, 1m30s or 500ms")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _not_negative(key: str, value: float) -> float:
    if not 0 <= value < 1e9:
        raise ConfigError(f"{key} is {value}; allowed is a number of seconds from 0 on")
    return value


def _boolean(key: str, text: str) -> bool:
    if text.lower() in ("true", "1", "t", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "f", "no", "off", ""):
        return False
    raise ConfigError(f"{key} is {text!r}; allowed are true and false")


def _integer(key: str, text: str, least: int, most: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise ConfigError(f"{key} is {text!r}; allowed is a whole number from {least} to {most}")
    return number


def servers(key: str, text: str) -> tuple[str, ...]:
    """URLs from a JSON list or a list with commas."""
    if text.startswith("["):
        try:
            found = json.loads(text)
        except ValueError as exc:
            raise ConfigError(f"{key} is {text!r}, which begins like a JSON list and is none: {exc}") from None
    else:
        found = [part.strip() for part in text.split(",")]
    urls = tuple(str(url) for url in found if url)
    for url in urls:
        if not re.fullmatch(r"https?://[^/\s]+/?", url):
            raise ConfigError(f"{key} holds {url!r}; allowed are URLs such as https://192.0.2.1:2379")
    if not urls:
        raise ConfigError(f"{key} is empty; give at least one URL")
    return urls


def metadata(key: str, text: str) -> dict[str, str]:
    """``k=v,k=v`` as a map."""
    found: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, value = part.partition("=")
        if not (name and equals and value) or "=" in value:
            raise ConfigError(f"{key} holds {part!r}; allowed is key=value, several separated by commas")
        found[name.strip()] = value.strip()
    return found


def _unquote(text: str) -> str:
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'" else text


def parse(text: str, origin: str) -> dict[str, str]:
    """``key=value`` lines; comments begin with # or ;, sections are not used."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line[0] in "#;[":
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise ConfigError(f"{origin}, line {number}: {line!r} is not key=value")
        found[key.strip()] = _unquote(value.strip())
    return found


def _convert(key: str, text: str) -> object:
    if key == "etcd_servers":
        return servers(key, text)
    if key == "metadata":
        return metadata(key, text)
    if key in ("etcd_request_timeout", "engine_reconcile_interval", "agent_ttl", "partition_grace"):
        return duration(key, text)
    if key in ("systemd_user", "disable_engine"):
        return _boolean(key, text)
    if key == "verbosity":
        return _integer(key, text, 0, 9)
    if key == "token_limit":
        return _integer(key, text, 1, 65535)
    if key == "etcd_key_prefix":
        return normal_prefix(text)
    return text


def build(settings: Mapping[str, str]) -> tuple[Config, list[str]]:
    """The configuration and warnings about keys that have no effect."""
    known = {item.name for item in fields(Config)}
    values: dict[str, object] = {}
    warnings = []
    for key, text in settings.items():
        if key in _IGNORED:
            warnings.append(f"setting {key} has no effect in this fleet")
        elif key not in known:
            raise ConfigError(f"unknown setting {key}; allowed are {', '.join(sorted(known))}")
        else:
            values[key] = _convert(key, text)
    config = Config(**values)  # type: ignore[arg-type]
    _check_tls(config)
    return config, warnings


def _check_tls(config: Config) -> None:
    if bool(config.etcd_certfile) != bool(config.etcd_keyfile):
        raise ConfigError("etcd_certfile and etcd_keyfile go together: set both or none")
    if config.listen and not (config.listen_cafile and config.listen_certfile and config.listen_keyfile):
        raise ConfigError(
            f"listen is {config.listen!r} without TLS: set listen_cafile, listen_certfile and listen_keyfile too; "
            "the API over TCP is offered with client certificates only"
        )


def load(path: Path, environment: Mapping[str, str] | None = None) -> tuple[Config, list[str]]:
    """Settings of the file (none: defaults), with ``FLEET_*`` variables of the environment (None: ours) over them."""
    environment = os.environ if environment is None else environment
    settings: dict[str, str] = {}
    if path.exists():
        settings.update(parse(path.read_text(encoding="utf-8"), str(path)))
    names = {item.name for item in fields(Config)} | _IGNORED
    for name in names:
        value = environment.get(f"FLEET_{name.upper()}")
        if value is not None:
            settings[name] = value
    return build(settings)
