# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import datetime
import os
import types

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.flotilla.cluster.plugins.action import pki_authority
from ansible_collections.flotilla.cluster.plugins.action.pki_authority import ActionModule

x509 = pytest.importorskip("cryptography.x509")
pytest.importorskip("ansible_collections.community.crypto")
from ansible_collections.flotilla.cluster.plugins.module_utils import _pki  # noqa: E402
from cryptography.hazmat.primitives import serialization  # noqa: E402

LONG_AGO = "2020-01-01T00:00:00Z"
NAMES = ["etcd-peer-ca", "etcd-client-ca"]
WANTED = _pki.Wanted(
    "etcd-client", "etcd-client-ca", "machine-core-01", frozenset({"192.0.2.11"}), frozenset({"clientAuth"})
)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / ".pki/flotilla"


@pytest.fixture
def run(folder):
    """Runs the action with these options."""

    def act(check_mode=False, **options):
        task = types.SimpleNamespace(
            args={"directory": str(folder), **options},
            check_mode=check_mode,
            async_val=0,
            diff=False,
            action="",
            delegate_to=None,
        )
        connection = types.SimpleNamespace(_shell=types.SimpleNamespace(tmpdir=str(folder)))
        action = ActionModule(task, connection, types.SimpleNamespace(), None, None, None)
        return action.run(task_vars={})

    return act


@pytest.fixture
def request_pem():
    return _pki.request(WANTED, _pki.new_key()[0])


def certificate(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_authorities_are_made_once(run, folder):
    assert run(authorities=NAMES, authority_days=100)["made"] == NAMES
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(made) == {f"{name}.{suffix}" for name in NAMES for suffix in ("key", "crt")}
    result = run(authorities=NAMES)
    assert (result["changed"], result["made"]) == (False, [])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == made


def test_two_plays_do_not_make_two_authorities(run, folder, monkeypatch):
    monkeypatch.setattr(pki_authority, "LOCK_TIMEOUT", 0)
    busy = f"another play has been working with them .* 'fuser {folder}'"
    with pki_authority.alone(str(folder)), pytest.raises(AnsibleActionFail, match=busy):
        run(authorities=NAMES)
    assert list(folder.iterdir()) == []
    assert run(authorities=NAMES)["made"] == NAMES


def test_a_prediction_makes_no_folder_and_waits_for_nobody(run, folder):
    assert run(check_mode=True, authorities=NAMES)["made"] == NAMES
    assert not folder.exists()


def test_an_authority_may_sign_and_nothing_else(run, folder):
    run(authorities=NAMES, cluster="production", authority_days=100)
    authority = certificate(folder / "etcd-peer-ca.crt")
    assert _pki.common_name_of(authority) == "production etcd-peer-ca"
    basic = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    usage = authority.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)
    now = datetime.datetime.now(datetime.timezone.utc)
    assert datetime.timedelta(hours=23) < now - _pki.valid_from(authority) < datetime.timedelta(hours=25)
    assert datetime.timedelta(days=99) < _pki.valid_until(authority) - now <= datetime.timedelta(days=100)


def test_keys_are_for_their_owner_alone(run, folder):
    run(authorities=NAMES)
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert {os.stat(folder / f"{name}.key").st_mode & 0o777 for name in NAMES} == {0o600}


def test_a_passphrase_encrypts_the_keys(run, folder, request_pem):
    run(authorities=["etcd-client-ca"], passphrase="canary-passphrase")
    assert (folder / "etcd-client-ca.key").read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    requests = {"core-01": [{"name": "etcd-client", "authority": "etcd-client-ca", "csr": request_pem}]}
    assert run(passphrase="canary-passphrase", requests=requests)["signed"]["core-01"]["etcd-client"]
    for wrong in ("", "canary-other"):
        with pytest.raises(AnsibleActionFail, match="cannot work with the authorities") as failure:
            run(passphrase=wrong, requests=requests)
        assert "canary" not in str(failure.value)


def test_a_certificate_is_what_its_host_asked_for(run, folder):
    run(authorities=NAMES)
    key = _pki.new_key()[0]
    requests = {
        "core-01": [
            {"name": "etcd-client", "authority": "etcd-client-ca", "csr": _pki.request(WANTED, key), "reasons": []}
        ],
        "core-02": [],
    }
    result = run(requests=requests, days=200)
    assert (result["changed"], set(result["signed"])) == (True, {"core-01"})
    signed = x509.load_pem_x509_certificate(result["signed"]["core-01"]["etcd-client"].encode())
    now = datetime.datetime.now(datetime.timezone.utc)
    assert _pki.faults(signed, WANTED, key, certificate(folder / "etcd-client-ca.crt"), now, 198) == []
    assert _pki.valid_until(signed) - _pki.valid_from(signed) <= datetime.timedelta(days=200, minutes=1)


def test_no_certificate_outlives_its_authority(run, folder, request_pem):
    run(authorities=["etcd-client-ca"], authority_days=50)
    requests = {"core-01": [{"name": "etcd-client", "authority": "etcd-client-ca", "csr": request_pem}]}
    signed = run(requests=requests, days=200)["signed"]["core-01"]["etcd-client"]
    end = _pki.valid_until(x509.load_pem_x509_certificate(signed.encode()))
    assert end == _pki.valid_until(certificate(folder / "etcd-client-ca.crt"))


def test_a_run_that_died_between_key_and_certificate_is_completed(run, folder):
    run(authorities=["etcd-peer-ca"])
    (folder / "etcd-peer-ca.crt").unlink()
    key = (folder / "etcd-peer-ca.key").read_bytes()
    assert run(authorities=["etcd-peer-ca"])["made"] == ["etcd-peer-ca"]
    assert (folder / "etcd-peer-ca.key").read_bytes() == key


def test_check_mode_makes_nothing(run, folder):
    result = run(check_mode=True, authorities=NAMES)
    assert (result["changed"], result["made"]) == (True, NAMES)
    assert not folder.exists()


def test_a_missing_authority_is_named(run, folder, request_pem):
    with pytest.raises(AnsibleActionFail, match="etcd-client-ca"):
        run(requests={"a": [{"name": "etcd-client", "authority": "etcd-client-ca", "csr": request_pem}]})


def signs(folder, name="etcd-client-ca"):
    """Whether the key and the first certificate of an authority belong together, and how many are trusted."""
    key = serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), None)
    bundle = _pki.load_bundle((folder / f"{name}.crt").read_bytes(), name)
    return _pki.public_bytes(key) == _pki.public_bytes(bundle[0]), len(bundle)


def test_an_authority_is_replaced_in_three_steps(run, folder, request_pem):
    rotate = {"authorities": ["etcd-client-ca"], "cluster": "production"}
    run(**rotate)
    old = (folder / "etcd-client-ca.crt").read_bytes()
    asked = {"a": [{"name": "etcd-client", "authority": "etcd-client-ca", "csr": request_pem}]}

    def signer():
        signed = run(requests=asked)["signed"]["a"]["etcd-client"]
        issued = x509.load_pem_x509_certificate(signed.encode())
        bundle = _pki.load_bundle((folder / "etcd-client-ca.crt").read_bytes(), "it")
        return [_pki.signed_by(issued, authority) for authority in bundle]

    with pytest.raises(AnsibleActionFail, match="No such file"):
        run(authorities=["missing-ca"], rotation="trust")
    for step, trusted, first in (("trust", 2, True), ("switch", 2, True), ("drop", 1, True)):
        assert run(check_mode=True, rotation=step, **rotate)["changed"] is True
        assert run(rotation=step, **rotate)["rotated"] == ["etcd-client-ca"]
        assert run(rotation=step, reissue_before=LONG_AGO, **rotate)["changed"] is False
        assert signs(folder) == (True, trusted)
        assert signer() == [first, *[False] * (trusted - 1)]
        assert (old in (folder / "etcd-client-ca.crt").read_bytes()) is (step != "drop")
    assert {path.name for path in folder.iterdir()} == {"etcd-client-ca.crt", "etcd-client-ca.key"}
    assert certificate(folder / "etcd-client-ca.crt").subject != x509.load_pem_x509_certificate(old).subject


def test_an_authority_that_is_new_enough_is_left(run, folder):
    run(authorities=["etcd-client-ca"])
    for step in ("trust", "switch", "drop"):
        assert run(authorities=["etcd-client-ca"], rotation=step, reissue_before=LONG_AGO)["changed"] is False
    assert signs(folder) == (True, 1)


def test_an_old_authority_is_not_dropped_while_it_signs(run, folder):
    run(authorities=["etcd-client-ca"])
    run(authorities=["etcd-client-ca"], rotation="trust")
    with pytest.raises(AnsibleActionFail, match="the new authority does not sign yet"):
        run(authorities=["etcd-client-ca"], rotation="drop")


@pytest.mark.parametrize("died", ["before the switch", "before the key", "after the key"])
def test_a_rotation_that_was_killed_goes_on(run, folder, died):
    names = {"authorities": ["etcd-client-ca"]}
    run(**names)
    old = (folder / "etcd-client-ca.crt").read_bytes()
    run(rotation="trust", **names)
    new = (folder / "etcd-client-ca.next.crt").read_bytes()
    if died == "before the switch":
        (folder / "etcd-client-ca.crt").write_bytes(old)
        assert run(rotation="trust", **names)["changed"] is True
    else:
        (folder / "etcd-client-ca.crt").write_bytes(new + old)
    if died == "after the key":
        (folder / "etcd-client-ca.next.key").rename(folder / "etcd-client-ca.key")
    run(rotation="switch", **names)
    assert signs(folder) == (True, 2)
    assert (folder / "etcd-client-ca.crt").read_bytes() == new + old
