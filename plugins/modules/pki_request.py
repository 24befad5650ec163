#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: pki_request
short_description: Keep the keys and certificates of a host, and ask for those that are missing
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Does the host's side of a private PKI in one call, for any number of certificates.
    It makes missing private keys on the host, checks every installed certificate against its
    description, and returns signing requests only for those that need a new certificate.
  - Something else signs the requests, for example M(community.crypto.x509_certificate_pipe) on the
    controller. A second call with O(signed) installs what was signed.
  - A private key is EC P-256, never leaves the host and is never part of the output. A usable key
    (EC of at least 256 bits, RSA of at least 2048 bits) is kept when its certificate is renewed, so
    that a key and its certificate fit one another at every moment. Remove the key file to get a
    new key.
  - Every file is written to a temporary name and renamed.
options:
  directory:
    description:
      - Where keys, certificates and authorities lie. It is made with mode 0755, owned by root.
    type: path
    default: /etc/flotilla/pki
  authorities:
    description:
      - The authorities that the host shall trust, name to certificates in PEM form.
        Each becomes C(<name>.crt) in O(directory).
      - The first certificate of a text signs; further ones are trusted too.
      - On the host several certificates lie in an order of their own, so that the file is the same whoever signs.
      - A text may be empty for an authority that is still to be made. What it shall sign is asked for then, and nothing
        is installed.
    type: dict
    default: {}
  certificates:
    description: The certificates that the host shall have.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the pair. Its files are C(<name>.key) and C(<name>.crt).
        type: str
        required: true
      authority:
        description: Name of the authority that signs it, one of O(authorities).
        type: str
        required: true
      common_name:
        description: Common name of the subject, at most 64 characters; "" for none.
        type: str
        required: true
      organizations:
        description: Organizations of the subject, such as V(fleet:operator) for a client of the fleet API.
        type: list
        elements: str
        default: []
      sans:
        description: IP addresses and DNS names that the certificate is for, without a prefix.
        type: list
        elements: str
        default: []
      usages:
        description: Extended key usages.
        type: list
        elements: str
        choices: [clientAuth, serverAuth]
        default: [clientAuth]
      owner:
        description: User that owns the private key. It must exist or be one of O(users).
        type: str
        default: root
      group:
        description: Group of the private key. It must exist or be the group of one of O(users).
        type: str
        default: root
      mode:
        description: Mode of the private key, as an octal number.
        type: str
        default: "0400"
  signed:
    description:
      - Signed certificates to install, name to PEM text.
      - Each is made from a request that this module returned.
      - One that does not fit its description, its key or its authority is refused.
    type: dict
    default: {}
  users:
    description:
      - System users to make when they are missing, so that a key can belong to a service that
        is installed later. An existing user is left as it is.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the user.
        type: str
        required: true
      group:
        description: Primary group, made when missing. The default is the name of the user.
        type: str
      home:
        description: Home directory. It is not created.
        type: path
        default: /nonexistent
      shell:
        description: Login shell.
        type: path
        default: /usr/sbin/nologin
  renew_days:
    description: A certificate with fewer days left than this is requested anew.
    type: int
    default: 30
  reissue_before:
    description:
      - A certificate issued before this time is requested anew, whenever it ends. As C(2026-11-23T18:00:00Z), in UTC.
      - A certificate counts as issued one day after it becomes valid, because M(flotilla.cluster.pki_authority) dates
        them back by that.
    type: str
    default: ""
  replace_authorities:
    description:
      - Whether an installed authority may be replaced by one that has no key in common with it.
      - V(false) protects a running cluster from a controller that lost its authorities, or has
        those of another cluster.
    type: bool
    default: false
  seal:
    description:
      - A text that stands for all that is wanted, a hash for example. When everything is as described, it is noted in
        C(.seal) of O(directory) together with what the files look like.
      - M(flotilla.cluster.host_info) tells whether that still holds, in less time than this module takes to look.
    type: str
    default: ""
requirements:
  - cryptography >= 3.4 on the host (C(python3-cryptography) of the distribution)
extends_documentation_fragment:
  - flotilla.cluster._attributes
attributes:
  check_mode:
    support: full
    details:
      - Without C(cryptography) on the host check mode predicts that everything would be made.
  diff_mode:
    support: full
    details:
      - No key and no request is part of it.
  idempotent:
    support: full
seealso:
  - module: community.crypto.x509_certificate_pipe
"""

EXAMPLES = r"""
---
- name: Ask for what is missing
  flotilla.cluster.pki_request:
    authorities:
      etcd-client-ca: "{{ lookup('ansible.builtin.file', 'pki/etcd-client-ca.crt') }}"
    certificates:
      - name: etcd-client
        authority: etcd-client-ca
        common_name: "machine-{{ inventory_hostname }}"
        sans: ["{{ inventory_hostname }}"]
  register: pki

- name: Sign on the controller
  community.crypto.x509_certificate_pipe:
    csr_content: "{{ item.csr }}"
    provider: ownca
    ownca_path: "pki/{{ item.authority }}.crt"
    ownca_privatekey_path: "pki/{{ item.authority }}.key"
  loop: "{{ pki.requests }}"
  loop_control:
    label: "{{ item.name }}"
  delegate_to: localhost
  register: signed
"""

RETURN = r"""
requests:
  description: Signing requests for the certificates that are missing or must be replaced.
  returned: always
  type: list
  elements: dict
  sample:
    - name: etcd-client
      authority: etcd-client-ca
      csr: "-----BEGIN CERTIFICATE REQUEST-----..."
      reasons: [it ends on 2026-12-01, in less than 30 days]
  contains:
    name:
      description: Name of the certificate.
      type: str
    authority:
      description: Name of the authority that shall sign it.
      type: str
    csr:
      description: The request in PEM form; empty in check mode when its key is still to be made.
      type: str
    reasons:
      description: Why a new certificate is needed.
      type: list
      elements: str
certificates:
  description: The certificates that are installed and in order, by name.
  returned: always
  type: dict
  sample:
    etcd-client:
      path: /etc/flotilla/pki/etcd-client.crt
      not_after: "2027-11-22T17:00:00Z"
      fingerprint: 5f1c...
files_changed:
  description: Files that were written, removed, or got another owner or mode.
  returned: always
  type: list
  elements: str
  sample: [/etc/flotilla/pki/etcd-client.crt]
"""

import datetime
import grp
import os
import pwd
import re
import traceback
import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.flotilla.cluster.plugins.module_utils import _pki, _seal

PUBLIC_MODE = 0o644
DIRECTORY_MODE = 0o755


class Store:
    """The directory on the host: writes atomically, and only notes it in check mode."""

    def __init__(self, module: AnsibleModule, directory: str) -> None:
        self.module = module
        self.directory = directory
        self.changed: list[str] = []
        self.diff: list[dict[str, str]] = []
        self.dry = module.check_mode

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def note(self, path: str, before: str, after: str) -> None:
        if path not in self.changed:
            self.changed.append(path)
        self.diff.append(
            {
                "before_header": path,
                "after_header": path,
                "before": before + "\n" if before else "",
                "after": after + "\n" if after else "",
            }
        )

    def read(self, path: str) -> bytes | None:
        try:
            with open(path, "rb") as handle:
                return handle.read()
        except FileNotFoundError:
            return None

    def ensure_directory(self) -> None:
        try:
            status = os.stat(self.directory)
        except FileNotFoundError:
            self.note(self.directory, "", "directory root:root 0755")
            if not self.dry:
                os.makedirs(self.directory, DIRECTORY_MODE)
                os.chmod(self.directory, DIRECTORY_MODE)  # not less because of a umask
            return
        if (status.st_uid, status.st_gid, status.st_mode & 0o7777) != (0, 0, DIRECTORY_MODE):
            self.note(self.directory, _access(status), "0:0 0755")
            if not self.dry:
                os.chown(self.directory, 0, 0)
                os.chmod(self.directory, DIRECTORY_MODE)

    def write(self, path: str, content: bytes, uid: int, gid: int, mode: int) -> None:
        """Write a whole file under a temporary name, then rename it."""
        if self.dry:
            return
        temporary = self.stage(path, content, uid, gid, mode)
        os.replace(temporary, path)

    def stage(self, path: str, content: bytes, uid: int, gid: int, mode: int) -> str:
        """Write a file that is ready to be renamed to ``path`` and return its name."""
        temporary = f"{os.path.dirname(path)}/.{os.path.basename(path)}.{os.getpid()}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        descriptor = os.open(temporary, flags, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        return temporary

    def ensure_access(self, path: str, uid: int, gid: int, mode: int) -> None:
        """Correct owner, group and mode of a file that exists."""
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return
        if (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (uid, gid, mode):
            return
        self.note(path, _access(status), f"{uid}:{gid} {mode:04o}")
        if not self.dry:
            os.chown(path, uid, gid)
            os.chmod(path, mode)

    def remove(self, path: str) -> None:
        if os.path.exists(path):
            self.note(path, "present", "")
            if not self.dry:
                os.unlink(path)


def _access(status: os.stat_result) -> str:
    return f"{status.st_uid}:{status.st_gid} {status.st_mode & 0o7777:04o}"


def _describe(pem: bytes | None) -> str:
    """One line about the first certificate of a file, for the diff."""
    if not pem:
        return ""
    try:
        found = _pki.load_bundle(pem, "it")
    except _pki.PkiError as exc:
        return str(exc)
    return "\n".join(
        f"{item.subject.rfc4514_string()}, issued by {item.issuer.rfc4514_string()}, "
        f"until {_pki.valid_until(item):%Y-%m-%dT%H:%M:%SZ}, SHA-256 {_pki.fingerprint(item)}"
        for item in found
    )


class Accounts:
    """Users and groups by name; makes the declared ones that are missing."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.made: list[str] = []
        self.planned: set[str] = set()

    def ensure(self, users: list[dict[str, t.Any]]) -> None:
        for user in users:
            group = user["group"] or user["name"]
            self._make_group(group)
            try:
                pwd.getpwnam(user["name"])
                continue
            except KeyError:
                pass
            self._run(
                f"user {user['name']}",
                [
                    *("useradd", "--system", "--gid", group, "--no-create-home"),
                    *("--home-dir", user["home"], "--shell", user["shell"], user["name"]),
                ],
            )

    def _make_group(self, group: str) -> None:
        try:
            grp.getgrnam(group)
        except KeyError:
            self._run(f"group {group}", ["groupadd", "--system", group])

    def _run(self, what: str, command: list[str]) -> None:
        self.made.append(what)
        self.planned.add(command[-1])
        if not self.module.check_mode:
            self.module.run_command(command, check_rc=True)

    def ids(self, owner: str, group: str, what: str) -> tuple[int, int]:
        """Return uid and gid; in check mode 0 stands for one that would be made."""
        return (
            self._id(owner, lambda: pwd.getpwnam(owner).pw_uid, "user", what),
            self._id(group, lambda: grp.getgrnam(group).gr_gid, "group", what),
        )

    def _id(self, name: str, find: t.Callable[[], int], kind: str, what: str) -> int:
        try:
            return find()
        except KeyError:
            if self.module.check_mode and name in self.planned:
                return 0
            raise _pki.PkiError(
                f"the key of certificate {what} shall belong to {kind} {name!r},"
                " which does not exist on this host: name it in 'users' or install what brings it"
            ) from None


class Pair:
    """A key and its certificate on the host."""

    def __init__(self, store: Store, options: dict[str, t.Any], signed: str | None, ids: tuple[int, int]) -> None:
        self.store = store
        self.wanted = _pki.wanted_from(options)
        self.signed = signed
        self.uid, self.gid = ids
        self.mode = _mode(options)
        self.key_path = store.path(f"{self.wanted.name}.key")
        self.pending_path = store.path(f".{self.wanted.name}.key.pending")
        self.certificate_path = store.path(f"{self.wanted.name}.crt")

    def _key(self, path: str) -> t.Any | None:
        content = self.store.read(path)
        return None if content is None else _pki.load_key(content)

    def ensure(
        self,
        authority: t.Any | None,
        now: datetime.datetime,
        renew_days: int,
        reissue_before: datetime.datetime | None = None,
    ) -> tuple[dict[str, t.Any] | None, dict[str, str] | None]:
        """Bring the pair as far as it goes and return (request, installed), one of them None."""
        if self.signed:
            installed = self._install(authority, now)
        else:
            reasons, installed = self._inspect(authority, now, renew_days)
            if reissue_before and not reasons and _pki.issued(installed) < reissue_before:
                reasons = [f"it was issued before {reissue_before:%Y-%m-%d %H:%M:%S} UTC"]
            if reasons:
                return self._request(reasons), None
        self.store.ensure_access(self.key_path, self.uid, self.gid, self.mode)
        self.store.ensure_access(self.certificate_path, 0, 0, PUBLIC_MODE)
        self.store.remove(self.pending_path)
        return None, self._report(installed)

    def _inspect(self, authority: t.Any | None, now: datetime.datetime, renew_days: int) -> tuple[list[str], t.Any]:
        key = self._key(self.key_path)
        if key is None:
            exists = os.path.exists(self.key_path)
            return [
                "its private key cannot be used (unreadable, encrypted or too short)"
                if exists
                else "there is no private key"
            ], None
        content = self.store.read(self.certificate_path)
        if content is None:
            return ["there is no certificate"], None
        try:
            certificate = _pki.load_bundle(content, self.certificate_path)[0]
        except _pki.PkiError as exc:
            return [str(exc)], None
        return _pki.faults(certificate, self.wanted, key, authority, now, renew_days), certificate

    def _request(self, reasons: list[str]) -> dict[str, t.Any]:
        self.store.note(self.certificate_path, "; ".join(reasons), "a new certificate")
        key = self._key(self.key_path)
        if key is None:
            key = self._pending_key()
        else:
            self.store.ensure_access(self.key_path, self.uid, self.gid, self.mode)
        return {
            "name": self.wanted.name,
            "authority": self.wanted.authority,
            "csr": "" if key is None else _pki.request(self.wanted, key),
            "reasons": reasons,
        }

    def _pending_key(self) -> t.Any | None:
        """Return the key that waits for its certificate, making it when there is none.

        An unusable key stays where it is until the new pair can replace it as a whole.
        """
        key = self._key(self.pending_path)
        if key is not None:
            return key
        self.store.note(self.key_path, "", "a new EC P-256 key")
        if self.store.dry:
            return None
        key, pem = _pki.new_key()
        self.store.write(self.pending_path, pem, 0, 0, 0o400)
        return key

    def _install(self, authority: t.Any | None, now: datetime.datetime) -> t.Any:
        content = (self.signed or "").encode()
        what = f"the certificate given for {self.wanted.name}"
        certificate = _pki.load_bundle(content, what)[0]
        path = self.key_path
        key = self._key(path)
        if key is None or _pki.public_bytes(key) != _pki.public_bytes(certificate):
            path = self.pending_path
            key = self._key(path)
        if key is None:
            raise _pki.PkiError(f"{what} belongs to no private key on this host: ask for a request first")
        reasons = _pki.faults(certificate, self.wanted, key, authority, now, 0)
        if reasons:
            raise _pki.PkiError(f"{what} cannot be installed: {'; '.join(reasons)}")
        present = self.store.read(self.certificate_path)
        if present != content:
            self.store.note(self.certificate_path, _describe(present), _describe(content))
        if not self.store.dry:
            # All slow work comes before the two renames: the pair is broken for microseconds only.
            certificate_file = self.store.stage(self.certificate_path, content, 0, 0, PUBLIC_MODE)
            if path == self.pending_path:
                key_pem = self.store.read(path) or b""
                key_file = self.store.stage(self.key_path, key_pem, self.uid, self.gid, self.mode)
                os.replace(key_file, self.key_path)
            os.replace(certificate_file, self.certificate_path)
        return certificate

    def _report(self, certificate: t.Any) -> dict[str, str]:
        return {
            "path": self.certificate_path,
            "not_after": f"{_pki.valid_until(certificate):%Y-%m-%dT%H:%M:%SZ}",
            "fingerprint": _pki.fingerprint(certificate),
        }


def _mode(options: dict[str, t.Any]) -> int:
    if not re.fullmatch(r"0?[0-7]{3}", options["mode"]):
        raise _pki.PkiError(
            f"mode of certificate {options['name']} is {options['mode']!r}: give an octal number such as 0400"
        )
    mode = int(options["mode"], 8)
    if mode & 0o007:
        raise _pki.PkiError(
            f"mode of certificate {options['name']} is {options['mode']!r}:"
            " other users must have no access to a private key"
        )
    return mode


def ensure_authorities(module: AnsibleModule, store: Store, now: datetime.datetime) -> dict[str, t.Any]:
    """Install the trusted authorities; return who signs for each (None: not made yet)."""
    signers: dict[str, t.Any] = {}
    for name, text in module.params["authorities"].items():
        path = store.path(f"{name}.crt")
        content = str(text).encode()
        present = store.read(path)
        if not content.strip():
            if module.params["signed"]:
                raise _pki.PkiError(f"authority {name} has no content: give its certificate in PEM form")
            if module.check_mode:
                store.note(path, _describe(present), "a new authority")
            signers[name] = None
            continue
        bundle = _pki.load_bundle(content, f"authority {name}")
        content = _pki.ordered(content)
        signers[name] = bundle[0]
        if _pki.valid_until(bundle[0]) < now:
            raise _pki.PkiError(
                f"authority {name} ended on {_pki.valid_until(bundle[0]):%Y-%m-%d}: move its"
                " certificate away on the controller, so that a new one is made, and allow the"
                " replacement (replace_authorities, in role pki pki_replace_authorities)"
            )
        if present != content:
            _refuse_stranger(module, name, path, present, bundle)
            store.note(path, _describe(present), _describe(content))
            store.write(path, content, 0, 0, PUBLIC_MODE)
        store.ensure_access(path, 0, 0, PUBLIC_MODE)
    return signers


def _refuse_stranger(module: AnsibleModule, name: str, path: str, present: bytes | None, bundle: list[t.Any]) -> None:
    if present is None or module.params["replace_authorities"]:
        return
    try:
        trusted = {_pki.public_bytes(item) for item in _pki.load_bundle(present, path)}
    except _pki.PkiError:
        return  # what cannot be read protects nothing
    if not trusted & {_pki.public_bytes(item) for item in bundle}:
        raise _pki.PkiError(
            f"{path} on this host is another authority {name} than the controller's: restore the"
            " directory of authorities that this cluster was made with, or allow the replacement"
            " (replace_authorities, in role pki pki_replace_authorities) and accept that members do"
            " not trust one another until all have it"
        )


def _set_seal(module: AnsibleModule, store: Store, authorities: t.Iterable[t.Any]) -> None:
    """Note that all is as described, until the first certificate is due."""
    margin = datetime.timedelta(days=module.params["renew_days"])
    ends = [_pki.valid_until(authority) for authority in authorities if authority is not None]
    names = [options["name"] for options in module.params["certificates"]]
    for name in names:
        path = store.path(f"{name}.crt")
        ends.append(_pki.valid_until(_pki.load_bundle(store.read(path) or b"", path)[0]) - margin)
    files = [store.path(f"{name}.crt") for name in [*module.params["authorities"], *names]]
    files += [store.directory, *(store.path(f"{name}.key") for name in names)]
    until = min((end.timestamp() for end in ends), default=0.0)
    text = _seal.text(module.params["seal"], until, files)
    store.write(store.path(".seal"), text.encode(), 0, 0, _seal.MODE)


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Do the whole work of the module and return its result."""
    store = Store(module, module.params["directory"])
    known = set(module.params["authorities"])
    for options in module.params["certificates"]:
        _pki.wanted_from(options)  # refuse bad input before anything is written
        _pki.check_file_name("authority", options["authority"])
        _mode(options)
        if options["authority"] not in known:
            raise _pki.PkiError(
                f"certificate {options['name']} names authority {options['authority']!r},"
                f" which is none of 'authorities' ({', '.join(sorted(known)) or 'empty'})"
            )
    signed = module.params["signed"]
    strangers = set(signed) - {options["name"] for options in module.params["certificates"]}
    if strangers:
        raise _pki.PkiError(f"'signed' holds {', '.join(sorted(strangers))}, which is none of 'certificates'")
    accounts = Accounts(module)
    accounts.ensure(module.params["users"])
    store.ensure_directory()
    now = datetime.datetime.now(datetime.timezone.utc)
    signers = ensure_authorities(module, store, now)
    reissue_before = _pki.parse_time(module.params["reissue_before"])
    requests: list[dict[str, t.Any]] = []
    installed: dict[str, dict[str, str]] = {}
    for options in module.params["certificates"]:
        name = options["name"]
        ids = accounts.ids(options["owner"], options["group"], name)
        pair = Pair(store, options, signed.get(name), ids)
        wish, report = pair.ensure(signers[options["authority"]], now, module.params["renew_days"], reissue_before)
        if wish is not None:
            requests.append(wish)
        if report is not None:
            installed[name] = report
    if module.params["seal"] and not requests and not store.dry and None not in signers.values():
        _set_seal(module, store, signers.values())
    result: dict[str, t.Any] = {
        "changed": bool(store.changed or accounts.made),
        "requests": requests,
        "certificates": installed,
        "files_changed": store.changed,
    }
    if module._diff:
        result["diff"] = store.diff
    return result


def main() -> None:
    """Read the parameters, run, and turn a PkiError into one sentence."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "default": "/etc/flotilla/pki"},
            "authorities": {"type": "dict", "default": {}},
            "certificates": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "authority": {"type": "str", "required": True},
                    "common_name": {"type": "str", "required": True},
                    "organizations": {"type": "list", "elements": "str", "default": []},
                    "sans": {"type": "list", "elements": "str", "default": []},
                    "usages": {
                        "type": "list",
                        "elements": "str",
                        "choices": ["clientAuth", "serverAuth"],
                        "default": ["clientAuth"],
                    },
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "mode": {"type": "str", "default": "0400"},
                },
            },
            "signed": {"type": "dict", "default": {}},
            "users": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "group": {"type": "str"},
                    "home": {"type": "path", "default": "/nonexistent"},
                    "shell": {"type": "path", "default": "/usr/sbin/nologin"},
                },
            },
            "renew_days": {"type": "int", "default": 30},
            "reissue_before": {"type": "str", "default": ""},
            "replace_authorities": {"type": "bool", "default": False},
            "seal": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    if not _pki.HAS_CRYPTOGRAPHY:
        if not module.check_mode:
            module.fail_json(msg=missing_required_lib("cryptography"))
        module.warn("cryptography is not installed on this host yet: all is predicted as still to be made")
        module.exit_json(changed=True, requests=[], certificates={}, files_changed=[])
    try:
        result = run(module)
    except _pki.PkiError as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(
            msg=f"cannot work in {module.params['directory']}: {exc}",
            exception=traceback.format_exc(),
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
