# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""fleet.conf and FLEET_*: upstream's keys, units of time, and one clear sentence for what cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from flotilla_fleet.config import Config, ConfigError, Login, build, load, logins


def test_an_upstream_file_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "fleet.conf"
    path.write_text(
        "# a comment\n"
        'etcd_servers=["https://192.0.2.1:2379","https://192.0.2.2:2379"]\n'
        'agent_ttl="1m30s"\n'
        "engine_reconcile_interval=0.5\n"
        'metadata="region=us-west,az=1"\n'
        "verify_units=false\n"
        'etcd_key_prefix="/here"\n'
    )
    config, warnings = load(path, {})
    assert config.etcd_servers == ("https://192.0.2.1:2379", "https://192.0.2.2:2379")
    assert config.machine_ttl == 90
    assert config.engine_ttl == 2
    assert config.metadata == {"region": "us-west", "az": "1"}
    assert config.etcd_key_prefix == "/here/"
    assert warnings == ["setting verify_units has no effect in this fleet"]


def test_a_variable_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "fleet.conf"
    path.write_text("public_ip=192.0.2.1\nverbosity=0\n")
    config, _warnings = load(path, {"FLEET_PUBLIC_IP": "192.0.2.9", "FLEET_VERBOSITY": "1", "OTHER": "x"})
    assert (config.public_ip, config.verbosity) == ("192.0.2.9", 1)


def test_no_file_gives_the_defaults(tmp_path: Path) -> None:
    config, warnings = load(tmp_path / "none", {})
    assert config == Config()
    assert (config.machine_ttl, config.engine_ttl, warnings) == (30, 10, [])


def test_leadership_never_outlives_a_machine() -> None:
    config, _warnings = build({"agent_ttl": "5s"})
    assert (config.machine_ttl, config.engine_ttl) == (5, 5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"agent_ttl": "soon"}, ["agent_ttl", "'soon'", "30s"]),
        ({"agent_ttl": "-5"}, ["agent_ttl", "-5"]),
        ({"agent_ttl": "30 s"}, ["agent_ttl", "'30 s'"]),
        ({"etcd_servers": "[1"}, ["etcd_servers", "JSON"]),
        ({"etcd_servers": "192.0.2.1:2379"}, ["etcd_servers", "192.0.2.1:2379", "https://"]),
        ({"etcd_servers": ""}, ["etcd_servers", "empty"]),
        ({"metadata": "az"}, ["metadata", "'az'", "key=value"]),
        ({"token_limit": "70000"}, ["token_limit", "70000", "65535"]),
        ({"disable_engine": "perhaps"}, ["disable_engine", "perhaps", "true"]),
        ({"etcd_certfile": "/x"}, ["etcd_certfile", "etcd_keyfile"]),
        ({"listen": "0.0.0.0:49153"}, ["listen", "TLS", "listen_cafile"]),
        ({"etcd_serverz": "x"}, ["etcd_serverz", "etcd_servers"]),
    ],
)
def test_bad_values_name_the_key_the_value_and_what_is_allowed(settings: dict[str, str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(settings)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_line_that_is_no_setting_is_named(tmp_path: Path) -> None:
    path = tmp_path / "fleet.conf"
    path.write_text("public_ip=192.0.2.1\nnonsense\n")
    with pytest.raises(ConfigError, match=r"line 2: 'nonsense' is not key=value"):
        load(path, {})


def test_a_password_is_not_shown() -> None:
    config, _warnings = build({"etcd_password": "canary"})
    assert "canary" not in repr(config)


def test_users_of_etcd_come_from_a_file_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    path.write_text("machine=fleet-machine-1:a:b\napi=fleet-api:c\n", encoding="utf-8")
    config, _warnings = build({"etcd_credentials": str(path), "disable_engine": "true"})
    assert logins(config) == {"machine": Login("fleet-machine-1", "a:b"), "api": Login("fleet-api", "c")}
    assert "a:b" not in repr(logins(config))
    one, _warnings = build({"etcd_username": "fleet", "etcd_password": "x"})
    assert set(logins(one).values()) == {Login("fleet", "x")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("machine=a:secret\napi=b:secret", "has no user for engine: add engine=user:password"),
        ("machine=secret", "a line that is not part=user:password"),
        ("other=a:secret", "with a part of machine, engine, api"),
        ("secret", "a line that is not part=user:password"),
        (None, "cannot read etcd_credentials"),
    ],
)
def test_wrong_credentials_are_told_without_showing_them(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "credentials"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    config, _warnings = build({"etcd_credentials": str(path)})
    with pytest.raises(ConfigError, match=words) as told:
        logins(config)
    assert "secret" not in str(told.value)
