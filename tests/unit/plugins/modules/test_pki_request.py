# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import datetime
import ipaddress
import os
import pwd
import stat

import pytest

x509 = pytest.importorskip("cryptography.x509")
from ansible_collections.flotilla.cluster.plugins.module_utils import _pki, _seal  # noqa: E402
from ansible_collections.flotilla.cluster.tests.unit.plugins.modules import test_host_service as services  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: E402
from cryptography.x509.oid import NameOID  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the module gives files to root")

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
SANS = ["192.0.2.11", "::1", "Core-01.example"]


class Authority:
    """Signs as the controller would."""

    def __init__(self, name="etcd-client-ca"):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.pem = self._sign(self.name, self.key.public_key(), []).decode()

    def _sign(self, subject, key, extensions, start=NOW - DAY, end=NOW + 100 * DAY):
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )
        for extension in extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def sign(self, request, **dates):
        csr = x509.load_pem_x509_csr(request["csr"].encode())
        return self._sign(csr.subject, csr.public_key(), csr.extensions, **dates).decode()


@pytest.fixture
def authority():
    return Authority()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "flotilla/pki"


@pytest.fixture
def ask(run_module, folder, authority):
    """Runs the module for one certificate; keyword arguments change its entry or the module's options."""

    def run(**changes):
        entry = {
            "name": "etcd-server",
            "authority": "etcd-client-ca",
            "common_name": "etcd-core-01",
            "organizations": [],
            "sans": SANS,
            "usages": ["serverAuth", "clientAuth"],
        }
        entry.update({key: changes.pop(key) for key in list(changes) if key in (*entry, "owner", "group", "mode")})
        options = {
            "directory": str(folder),
            "authorities": {"etcd-client-ca": authority.pem},
            "certificates": [entry],
        }
        return run_module("pki_request", **{**options, **changes})

    return run


@pytest.fixture
def installed(ask, authority):
    """A pair that is installed and in order."""
    signed = authority.sign(ask()["requests"][0])
    result = ask(signed={"etcd-server": signed})
    assert result["changed"]
    return signed


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_fresh_host_gets_a_key_and_asks_for_a_certificate(ask, folder, authority):
    result = ask()
    assert result["changed"]
    (request,) = result["requests"]
    assert (request["name"], request["authority"]) == ("etcd-server", "etcd-client-ca")
    assert request["reasons"] == ["there is no private key"]
    csr = x509.load_pem_x509_csr(request["csr"].encode())
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.IPAddress)) == {ipaddress.ip_address(a) for a in ("192.0.2.11", "::1")}
    assert names.get_values_for_type(x509.DNSName) == ["core-01.example"]
    assert not csr.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usages = csr.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {usage._name for usage in usages} == {"serverAuth", "clientAuth"}
    assert (folder / "etcd-client-ca.crt").read_text() == authority.pem
    assert not (folder / "etcd-server.key").exists()
    assert mode(folder / ".etcd-server.key.pending") == 0o400


def test_organizations_are_part_of_the_request(ask):
    (request,) = ask(organizations=["fleet:operator", "fleet:viewer"])["requests"]
    names = x509.load_pem_x509_csr(request["csr"].encode()).subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    assert [name.value for name in names] == ["fleet:operator", "fleet:viewer"]


def test_the_pair_is_installed_together(ask, folder, installed):
    assert (folder / "etcd-server.crt").read_text() == installed
    assert mode(folder / "etcd-server.crt") == 0o644
    assert mode(folder / "etcd-server.key") == 0o400
    assert sorted(path.name for path in folder.iterdir()) == [
        "etcd-client-ca.crt",
        "etcd-server.crt",
        "etcd-server.key",
    ]


def test_a_second_run_changes_nothing(ask, installed):
    result = ask()
    assert not result["changed"]
    assert result["requests"] == []
    assert result["certificates"]["etcd-server"]["fingerprint"] == _pki.fingerprint(
        x509.load_pem_x509_certificate(installed.encode())
    )


def test_a_request_that_was_lost_is_made_again_for_the_same_key(ask):
    first, second = (x509.load_pem_x509_csr(ask()["requests"][0]["csr"].encode()) for _time in range(2))
    assert _pki.public_bytes(first) == _pki.public_bytes(second)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sans": [*SANS, "192.0.2.12"]}, "it is for 192.0.2.11, ::1, core-01.example instead of"),
        ({"usages": ["clientAuth"]}, "its usages are clientAuth, serverAuth instead of clientAuth"),
        ({"common_name": "other"}, "its common name is 'etcd-core-01' instead of 'other'"),
        ({"organizations": ["fleet:viewer"]}, "its organizations are none instead of fleet:viewer"),
        ({"renew_days": 101}, "in less than 101 days"),
    ],
)
def test_what_is_not_as_wanted_is_requested_for_the_same_key(ask, folder, installed, change, reason):
    key = (folder / "etcd-server.key").read_bytes()
    (request,) = ask(**change)["requests"]
    assert reason in request["reasons"][0]
    assert (folder / "etcd-server.key").read_bytes() == key
    assert (folder / "etcd-server.crt").read_text() == installed
    assert not (folder / ".etcd-server.key.pending").exists()


def test_order_and_spelling_of_names_do_not_matter(ask, installed):
    assert not ask(sans=["core-01.EXAMPLE.", "0:0:0:0:0:0:0:1", "192.0.2.11", "192.0.2.11"])["changed"]


def test_another_authority_is_refused(ask, folder, installed):
    result = ask(authorities={"etcd-client-ca": Authority().pem})
    assert result["failed"]
    assert "is another authority etcd-client-ca than the controller's" in result["msg"]
    assert (folder / "etcd-server.crt").read_text() == installed


def test_an_authority_that_has_ended_is_refused(ask, folder):
    old = Authority()
    pem = old._sign(old.name, old.key.public_key(), [], start=NOW - 9 * DAY, end=NOW - DAY).decode()
    assert "authority etcd-client-ca ended on" in ask(authorities={"etcd-client-ca": pem})["msg"]
    assert not list(folder.glob("*.crt"))


def test_another_authority_can_be_allowed(ask, folder, installed):
    other = Authority()
    result = ask(authorities={"etcd-client-ca": other.pem}, replace_authorities=True)
    assert result["requests"][0]["reasons"] == ["etcd-client-ca did not sign it"]
    assert (folder / "etcd-client-ca.crt").read_text() == other.pem


def test_an_authority_of_the_same_name_with_another_key_did_not_sign(authority):
    assert not _pki.signed_by(
        x509.load_pem_x509_certificate(authority.pem.encode()),
        x509.load_pem_x509_certificate(Authority().pem.encode()),
    )


def test_a_bundle_with_the_old_authority_is_accepted(ask, folder, authority, installed):
    bundle = authority.pem + Authority("next").pem
    result = ask(authorities={"etcd-client-ca": bundle})
    assert result["files_changed"] == [str(folder / "etcd-client-ca.crt")]
    assert result["requests"] == []


def test_the_file_is_the_same_whichever_of_two_authorities_signs(ask, folder, authority, installed):
    other = Authority("next")
    ask(authorities={"etcd-client-ca": authority.pem + other.pem})
    both = (folder / "etcd-client-ca.crt").read_bytes()
    result = ask(authorities={"etcd-client-ca": other.pem + authority.pem})
    assert str(folder / "etcd-client-ca.crt") not in result["files_changed"]
    assert (folder / "etcd-client-ca.crt").read_bytes() == both
    # but the other one signs now
    assert "did not sign it" in result["requests"][0]["reasons"][0]


def test_what_was_issued_before_a_time_is_issued_again(ask, folder, authority, installed):
    def at(time):
        return f"{time:%Y-%m-%dT%H:%M:%SZ}"

    # valid since a day, so issued now
    assert ask(reissue_before=at(NOW - DAY))["requests"] == []
    (request,) = ask(reissue_before=at(NOW + DAY / 2))["requests"]
    assert request["reasons"][0].startswith("it was issued before ")
    key = (folder / "etcd-server.key").read_bytes()
    later = authority.sign(request, start=NOW)
    assert ask(reissue_before=at(NOW + DAY / 2), signed={"etcd-server": later})["requests"] == []
    assert (folder / "etcd-server.crt").read_text() == later
    assert (folder / "etcd-server.key").read_bytes() == key
    assert ask(reissue_before=at(NOW + DAY / 2))["changed"] is False
    assert "reissue_before is 'today'" in ask(reissue_before="today")["msg"]


def weak_key():
    return rsa.generate_private_key(65537, 1024).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize("content", [b"no key", weak_key()], ids=["garbage", "weak"])
def test_an_unusable_key_stays_until_its_successor_has_a_certificate(ask, folder, authority, installed, content):
    (folder / "etcd-server.key").write_bytes(content)
    (request,) = ask()["requests"]
    assert "its private key cannot be used" in request["reasons"][0]
    assert (folder / "etcd-server.key").read_bytes() == content
    ask(signed={"etcd-server": authority.sign(request)})
    assert not ask()["changed"]
    assert not (folder / ".etcd-server.key.pending").exists()


def test_a_key_that_was_replaced_by_hand_gets_a_new_certificate(ask, folder, installed):
    (folder / "etcd-server.key").write_bytes(_pki.new_key()[1])
    assert ask()["requests"][0]["reasons"] == ["it does not belong to the private key"]


def test_a_certificate_that_does_not_fit_is_not_installed(ask, folder, authority):
    (request,) = ask()["requests"]
    for signed, words in (
        (Authority().sign(request), "etcd-client-ca did not sign it"),
        (authority.sign(request, start=NOW + DAY), "it is valid only from"),
        ("no certificate", "holds no certificate in PEM form"),
    ):
        result = ask(signed={"etcd-server": signed})
        assert result["failed"]
        assert words in result["msg"]
    assert not (folder / "etcd-server.crt").exists()


def test_a_certificate_may_have_no_common_name(run_module, authority, tmp_path):
    entry = {"name": "etcd-client", "authority": "etcd-client-ca", "common_name": "", "sans": SANS}
    asked = {
        "directory": str(tmp_path / "pki"),
        "authorities": {"etcd-client-ca": authority.pem},
        "certificates": [entry],
    }
    request = run_module("pki_request", **asked)["requests"][0]
    installed = run_module("pki_request", **asked, signed={"etcd-client": authority.sign(request)})
    assert "msg" not in installed, installed
    certificate = x509.load_pem_x509_certificate((tmp_path / "pki" / "etcd-client.crt").read_bytes())
    assert list(certificate.subject) == []
    assert run_module("pki_request", **asked)["changed"] is False


def test_a_certificate_for_another_key_is_not_installed(ask, run_module, authority, tmp_path):
    ask()
    entry = {"name": "etcd-server", "authority": "etcd-client-ca", "common_name": "x", "sans": SANS}
    other = run_module(
        "pki_request",
        directory=str(tmp_path / "other"),
        authorities={"etcd-client-ca": authority.pem},
        certificates=[entry],
    )
    result = ask(signed={"etcd-server": authority.sign(other["requests"][0])})
    assert "it does not belong to the private key" in result["msg"]


def test_access_is_corrected(ask, folder, installed):
    (folder / "etcd-server.key").chmod(0o644)
    folder.chmod(0o777)
    result = ask()
    assert sorted(result["files_changed"]) == [str(folder), str(folder / "etcd-server.key")]
    assert (mode(folder / "etcd-server.key"), mode(folder)) == (0o400, 0o755)


def test_the_key_belongs_to_its_owner(ask, folder, authority):
    daemon = pwd.getpwnam("daemon")
    ask(owner="daemon", group="daemon")
    ask(owner="daemon", group="daemon", signed={"etcd-server": authority.sign(ask()["requests"][0])})
    status = (folder / "etcd-server.key").stat()
    assert (status.st_uid, status.st_gid) == (daemon.pw_uid, daemon.pw_gid)


def test_an_authority_that_is_still_to_be_made_gets_requests_only(ask, folder, authority):
    first = ask(authorities={"etcd-client-ca": ""}, seal="all that is wanted")
    assert [request["name"] for request in first["requests"]] == ["etcd-server"]
    assert not (folder / "etcd-client-ca.crt").exists()
    assert not (folder / ".seal").exists()
    second = ask(signed={"etcd-server": authority.sign(first["requests"][0])})
    assert second["requests"] == []
    assert (folder / "etcd-client-ca.crt").exists()


def test_what_is_installed_is_not_sealed_while_its_authority_is_missing(ask, folder, installed):
    assert ask(authorities={"etcd-client-ca": ""}, seal="all that is wanted")["changed"] is False
    assert not (folder / ".seal").exists()


def test_all_that_is_in_order_is_sealed_until_it_is_due(ask, folder, installed):
    assert ask(seal="all that is wanted")["changed"] is False
    seal = _seal.read(str(folder / ".seal"))
    assert seal["wish"] == "all that is wanted"
    assert seal["intact"]
    assert mode(folder / ".seal") == 0o600
    assert sorted(path.name for path in folder.iterdir()) == [
        ".seal",
        "etcd-client-ca.crt",
        "etcd-server.crt",
        "etcd-server.key",
    ]
    due = NOW + 100 * DAY - 30 * DAY
    assert abs(seal["until"] - due.timestamp()) < 2
    os.chmod(folder / "etcd-server.key", 0o440)
    assert not _seal.read(str(folder / ".seal"))["intact"]


def test_what_waits_for_a_certificate_is_not_sealed(ask, folder):
    assert ask(seal="all that is wanted")["requests"]
    assert not (folder / ".seal").exists()


def test_check_mode_seals_nothing(ask, folder, installed):
    ask(seal="all that is wanted", _ansible_check_mode=True)
    assert not (folder / ".seal").exists()


def test_check_mode_on_a_fresh_host(ask, folder):
    result = ask(_ansible_check_mode=True, authorities={"etcd-client-ca": ""})
    assert result["changed"]
    assert result["requests"][0]["csr"] == ""
    assert str(folder / "etcd-server.crt") in result["files_changed"]
    assert not folder.parent.exists()


def test_check_mode_predicts_a_renewal(ask, folder, installed):
    result = ask(_ansible_check_mode=True, renew_days=101)
    assert result["changed"]
    assert (folder / "etcd-server.crt").read_text() == installed


def test_check_mode_knows_a_user_that_would_be_made(ask):
    users = [{"name": "flotilla-test-user"}]
    owner = {"owner": "flotilla-test-user", "group": "flotilla-test-user"}
    assert ask(_ansible_check_mode=True, users=users, **owner)["changed"]
    result = ask(_ansible_check_mode=True, **owner)
    assert "shall belong to user 'flotilla-test-user', which does not exist" in result["msg"]


def test_no_key_is_shown(ask, folder, authority):
    shown = [ask(_ansible_diff=True)]
    shown.append(ask(_ansible_diff=True, signed={"etcd-server": authority.sign(shown[0]["requests"][0])}))
    assert shown[1]["diff"]
    key = (folder / "etcd-server.key").read_text().splitlines()[1]
    assert all("PRIVATE" not in str(result) and key not in str(result) for result in shown)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"common_name": "x" * 65}, "common_name of certificate etcd-server has 65 characters"),
        ({"organizations": ["x" * 65]}, "organizations of certificate etcd-server has"),
        ({"sans": ["a b"]}, "'a b' cannot be a subject alternative name"),
        ({"sans": ["*.example"]}, "cannot be a subject alternative name"),
        ({"name": "../x"}, "certificate name '../x' is a file name"),
        ({"authority": "other"}, "names authority 'other', which is none of 'authorities' (etcd-client-ca)"),
        ({"mode": "0444"}, "other users must have no access"),
        ({"mode": "u=r"}, "give an octal number"),
        ({"owner": "nobody-here"}, "shall belong to user 'nobody-here', which does not exist"),
        (
            {"authorities": {"etcd-client-ca": ""}, "signed": {"etcd-server": "x"}},
            "authority etcd-client-ca has no content",
        ),
        ({"authorities": {"etcd-client-ca": "text"}}, "holds no certificate in PEM form"),
        ({"signed": {"other": "x"}}, "'signed' holds other"),
    ],
)
def test_bad_input_is_one_sentence(ask, folder, change, words):
    result = ask(**change)
    assert result["failed"]
    assert words in result["msg"]
    assert not list(folder.glob("*.key"))


def test_a_host_without_cryptography(ask, folder, monkeypatch):
    monkeypatch.setattr(_pki, "HAS_CRYPTOGRAPHY", False)
    assert "Failed to import the required Python library (cryptography)" in ask()["msg"]
    assert ask(_ansible_check_mode=True)["changed"]
    assert not folder.exists()


# --- on the way to services: option pki of host_service -------------------------------------------------------------

played = services.world


@pytest.fixture
def with_service(run_module, folder, authority, played):
    """Runs host_service for a unit that reads the certificate, with the options of pki_request given."""

    def run(_ansible_check_mode=False, service=None, **options):
        entry = {"name": "etcd-server", "authority": "etcd-client-ca", "common_name": "x", "sans": SANS}
        wanted = {
            "directory": str(folder),
            "authorities": {"etcd-client-ca": authority.pem},
            "certificates": [entry],
            "seal": "all",
            **options,
        }
        described = {
            "name": services.UNIT,
            "files": [played.file(f"units/{services.UNIT}", services.UNIT_TEXT)],
            "reads": [str(folder / "etcd-server.crt")],
            **(service or {}),
        }
        asked = run_module("pki_request", **{**wanted, "signed": {}, "renew_days": 30})["requests"]
        signed = {request["name"]: authority.sign(request) for request in asked}
        pki = {**wanted, "signed": signed, **options}
        return run_module("host_service", services=[described], pki=pki, _ansible_check_mode=_ansible_check_mode)

    return run


def test_what_was_signed_is_installed_before_the_service_starts(with_service, folder, played):
    result = with_service()
    assert sorted(result["pki"]) == [str(folder / ".etcd-server.key.pending"), str(folder / "etcd-server.crt")]
    assert result["changed"]
    assert result["services"][services.UNIT]["started"]
    assert _seal.read(str(folder / ".seal"))["wish"] == "all"
    assert _seal.read(str(folder / ".seal"))["intact"]
    # the process is known to have read this certificate: nothing restarts in the next run
    again = with_service()
    assert (again["changed"], again["pki"]) == (False, [])
    assert played.systemd.calls == [f"enable {services.UNIT}", f"start {services.UNIT}"]


def test_a_renewed_certificate_restarts_what_reads_it_in_the_same_call(with_service, folder):
    with_service()
    result = with_service(reissue_before=f"{NOW + 2 * DAY:%Y-%m-%dT%H:%M:%SZ}")
    assert result["pki"] == [str(folder / "etcd-server.crt")]
    assert result["services"][services.UNIT]["restarted"]
    assert result["services"][services.UNIT]["restart_reasons"] == ["it was started with other content"]


def test_no_service_starts_without_its_certificate(with_service, played):
    result = with_service(signed={})
    assert result["failed"]
    assert result["msg"] == ("pki: these certificates are to be signed first: etcd-server (there is no private key).")
    assert played.systemd.calls == []


def test_no_certificate_is_installed_where_a_service_cannot_be(with_service, folder):
    result = with_service(service={"links": [{"path": str(folder), "target": "x"}]})
    assert result["failed"]
    assert result["msg"].startswith("Nothing was changed, because this cannot be carried out: ")
    assert not (folder / "etcd-server.crt").exists()


def test_check_mode_installs_nothing(with_service, folder):
    result = with_service(_ansible_check_mode=True)
    assert result["pki"] == []
    assert result["services"][services.UNIT]["started"]
    assert not (folder / "etcd-server.crt").exists()


def test_bad_options_are_named(with_service):
    result = with_service(renew_days="soon")
    assert result["failed"]
    assert result["msg"].startswith("pki: ")
    assert "renew_days" in result["msg"]
