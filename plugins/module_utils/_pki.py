# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection.
# It can change in breaking ways at any time.

"""What a host's keys and certificates must look like, and whether they do.

Nothing here touches a file: functions take PEM bytes and return decisions, keys or requests.
C(cryptography) does all the cryptographic work; a host gets it from its own distribution.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
import typing as t

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    HAS_CRYPTOGRAPHY = True
except ImportError:
    HAS_CRYPTOGRAPHY = False

# A host's clock may be behind the controller's, so certificates become valid before they are made.
BACKDATED = datetime.timedelta(days=1)
USAGES = ("clientAuth", "serverAuth")
COMMON_NAME_LIMIT = 64  # X.520 ub-common-name; OpenSSL refuses longer ones
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)


class PkiError(Exception):
    """Something given cannot be used; the text is one sentence for the user."""


class Wanted(t.NamedTuple):
    """One certificate as it should be; O(sans) are bare addresses and names."""

    name: str
    authority: str
    common_name: str
    sans: frozenset[str]
    usages: frozenset[str]
    organizations: frozenset[str] = frozenset()


def normal_san(text: str) -> str:
    """Return an address in its shortest form or a name in lower case.

    Raises PkiError for what can be neither.
    """
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    name = text.lower().rstrip(".")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise PkiError(
            f"{text!r} cannot be a subject alternative name: give an IP address or a DNS name"
            " (letters, digits, '-', '.')"
        )
    return name


def check_file_name(what: str, name: str) -> None:
    """Raise PkiError when a name cannot be the name of a file in the directory."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise PkiError(f"{what} name {name!r} is a file name: use letters, digits, '.', '_' and '-'")


def wanted_from(options: t.Mapping[str, t.Any]) -> Wanted:
    """Check one entry of the module's C(certificates) and return it as a record."""
    name = options["name"]
    check_file_name("certificate", name)
    common_name = options["common_name"]
    for organization in options["organizations"]:
        if not 0 < len(organization) <= COMMON_NAME_LIMIT:
            raise PkiError(
                f"organizations of certificate {name} has {organization!r}: give 1 to {COMMON_NAME_LIMIT} characters"
            )
    if len(common_name) > COMMON_NAME_LIMIT:
        raise PkiError(
            f"common_name of certificate {name} has {len(common_name)} characters"
            f" ({common_name!r}): give {COMMON_NAME_LIMIT} at most"
        )
    return Wanted(
        name=name,
        authority=options["authority"],
        common_name=common_name,
        sans=frozenset(normal_san(item) for item in options["sans"]),
        usages=frozenset(options["usages"]),
        organizations=frozenset(options["organizations"]),
    )


def load_bundle(pem: bytes, what: str) -> list[x509.Certificate]:
    """Return all certificates of a PEM text, in its order; PkiError when there is none."""
    try:
        found = [x509.load_pem_x509_certificate(block) for block in _CERTIFICATE.findall(pem)]
    except ValueError as exc:
        raise PkiError(f"{what} holds a certificate that cannot be read: {exc}") from exc
    if not found:
        raise PkiError(f"{what} holds no certificate in PEM form")
    return found


def blocks(pem: bytes) -> list[bytes]:
    """The certificates of a PEM text, each as a text of its own."""
    return [block.rstrip() + b"\n" for block in _CERTIFICATE.findall(pem)]


def ordered(pem: bytes) -> bytes:
    """A PEM text as a host keeps it: several certificates are sorted, so that who signs makes no difference."""
    found = blocks(pem)
    return b"".join(sorted(set(found))) if len(found) > 1 else pem.rstrip() + b"\n"


def parse_time(text: str) -> datetime.datetime | None:
    """A time in UTC such as 2026-11-23T18:00:00Z, None for "". Raises PkiError for anything else."""
    if not text:
        return None
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc)
    except ValueError:
        raise PkiError(f"reissue_before is {text!r}: give a time in UTC such as 2026-11-23T18:00:00Z") from None


def load_key(pem: bytes) -> t.Any | None:
    """Return a private key that may go on being used, None when it cannot be.

    Usable is an unencrypted EC key of at least 256 bits or an RSA key of at least 2048.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size >= 256:
        return key
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return key
    return None


def new_key() -> tuple[t.Any, bytes]:
    """Return a new EC P-256 key and its PKCS#8 PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key, key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_bytes(holder: t.Any) -> bytes:
    """Return the public key of a private key or certificate in a form that can be compared."""
    content: bytes = holder.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return content


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate in lower-case hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def valid_from(certificate: x509.Certificate) -> datetime.datetime:
    """Return the start of validity, with time zone, on every version of cryptography."""
    if hasattr(certificate, "not_valid_before_utc"):  # since 42; the other name warns there
        return certificate.not_valid_before_utc
    return certificate.not_valid_before.replace(tzinfo=datetime.timezone.utc)


def valid_until(certificate: x509.Certificate) -> datetime.datetime:
    """Return the end of validity, with time zone, on every version of cryptography."""
    if hasattr(certificate, "not_valid_after_utc"):
        return certificate.not_valid_after_utc
    return certificate.not_valid_after.replace(tzinfo=datetime.timezone.utc)


def is_authority(certificate: x509.Certificate) -> bool:
    """Tell whether a certificate may sign others."""
    try:
        constraints: t.Any = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return False
    return bool(constraints.ca)


def issued(certificate: x509.Certificate) -> datetime.datetime:
    """Return when a certificate was made: its start of validity is dated back, see pki_authority."""
    return valid_from(certificate) + BACKDATED


def signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Tell whether the authority's key signed the certificate and its name is the issuer."""
    if certificate.issuer != authority.subject or certificate.signature_hash_algorithm is None:
        return False
    key = authority.public_key()
    try:
        # verify_directly_issued_by() came with cryptography 40; Debian 12 has 38.
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(
                certificate.signature,
                certificate.tbs_certificate_bytes,
                ec.ECDSA(certificate.signature_hash_algorithm),
            )
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(
                certificate.signature,
                certificate.tbs_certificate_bytes,
                padding.PKCS1v15(),
                certificate.signature_hash_algorithm,
            )
        else:
            return False
    except InvalidSignature:
        return False
    return True


def sans_of(certificate: x509.Certificate) -> frozenset[str]:
    """Return the names and addresses a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    found = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    found.update(name.lower() for name in names.get_values_for_type(x509.DNSName))
    return frozenset(found)


def usages_of(certificate: x509.Certificate) -> frozenset[str]:
    """Return the extended key usages among USAGES that a certificate carries."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return frozenset()
    known = {
        ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
        ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
    }
    return frozenset(known[oid] for oid in usage if oid in known)


def common_name_of(certificate: x509.Certificate) -> str:
    """Return the common name, "" when there is none."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def organizations_of(certificate: x509.Certificate) -> frozenset[str]:
    """Return the organizations in the subject."""
    found = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return frozenset(str(item.value) for item in found)


def _list(values: t.Iterable[str]) -> str:
    return ", ".join(sorted(values)) or "none"


def faults(
    certificate: x509.Certificate,
    wanted: Wanted,
    key: t.Any,
    authority: x509.Certificate | None,
    now: datetime.datetime,
    renew_days: int,
) -> list[str]:
    """Return why a certificate must be replaced, [] when it is as wanted.

    ``authority`` is the certificate whose key must have signed it; None leaves that check out.
    """
    reasons = []
    if public_bytes(certificate) != public_bytes(key):
        reasons.append("it does not belong to the private key")
    if authority is not None and not signed_by(certificate, authority):
        reasons.append(f"{wanted.authority} did not sign it")
    if sans_of(certificate) != wanted.sans:
        reasons.append(f"it is for {_list(sans_of(certificate))} instead of {_list(wanted.sans)}")
    if usages_of(certificate) != wanted.usages:
        reasons.append(f"its usages are {_list(usages_of(certificate))} instead of {_list(wanted.usages)}")
    if common_name_of(certificate) != wanted.common_name:
        reasons.append(f"its common name is {common_name_of(certificate)!r} instead of {wanted.common_name!r}")
    if organizations_of(certificate) != wanted.organizations:
        reasons.append(
            f"its organizations are {_list(organizations_of(certificate))} instead of {_list(wanted.organizations)}"
        )
    if now < valid_from(certificate):
        reasons.append(f"it is valid only from {valid_from(certificate):%Y-%m-%d %H:%M} UTC")
    if valid_until(certificate) - now < datetime.timedelta(days=renew_days):
        reasons.append(f"it ends on {valid_until(certificate):%Y-%m-%d}, in less than {renew_days} days")
    return reasons


def _general_name(san: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(san))
    except ValueError:
        return x509.DNSName(san)


def request(wanted: Wanted, key: t.Any) -> str:
    """Return a certificate signing request in PEM form."""
    names = [_general_name(item) for item in sorted(wanted.sans)]
    oids = {
        "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH,
        "serverAuth": ExtendedKeyUsageOID.SERVER_AUTH,
    }
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, item) for item in sorted(wanted.organizations)]
    if wanted.common_name:
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, wanted.common_name))
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name(subject))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=isinstance(key, rsa.RSAPrivateKey),
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=False,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.ExtendedKeyUsage([oids[usage] for usage in sorted(wanted.usages)]), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not subject)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
