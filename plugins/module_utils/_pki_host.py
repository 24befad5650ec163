# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
# Do not use this code from other collections or standalone plugins and modules!

"""Keys and certificates of a host: what C(pki_request) does, and C(host_service) on its way to the services."""

from __future__ import annotations

import datetime
import grp
import os
import pwd
import re
import typing as t

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.flotilla.cluster.plugins.module_utils import _pki, _seal
from ansible_collections.flotilla.cluster.plugins.module_utils._pki import PkiError

PUBLIC_MODE = 0o644
DIRECTORY_MODE = 0o755

ARGUMENTS: dict[str, t.Any] = {
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
}


class Store:
    """The directory on the host: writes atomically, and only notes it in check mode."""

    def __init__(self, directory: str, check_mode: bool) -> None:
        self.directory = directory
        self.changed: list[str] = []
        self.diff: list[dict[str, str]] = []
        self.dry = check_mode

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
    except PkiError as exc:
        return str(exc)
    return "\n".join(
        f"{item.subject.rfc4514_string()}, issued by {item.issuer.rfc4514_string()}, "
        f"until {_pki.valid_until(item):%Y-%m-%dT%H:%M:%SZ}, SHA-256 {_pki.fingerprint(item)}"
        for item in found
    )


class Accounts:
    """Users and groups by name; makes the declared ones that are missing."""

    def __init__(self, check_mode: bool, run: t.Callable[[list[str]], object]) -> None:
        self.dry = check_mode
        self.run = run
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
        if not self.dry:
            self.run(command)

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
            if self.dry and name in self.planned:
                return 0
            raise PkiError(
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
        except PkiError as exc:
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
            raise PkiError(f"{what} belongs to no private key on this host: ask for a request first")
        reasons = _pki.faults(certificate, self.wanted, key, authority, now, 0)
        if reasons:
            raise PkiError(f"{what} cannot be installed: {'; '.join(reasons)}")
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
        raise PkiError(
            f"mode of certificate {options['name']} is {options['mode']!r}: give an octal number such as 0400"
        )
    mode = int(options["mode"], 8)
    if mode & 0o007:
        raise PkiError(
            f"mode of certificate {options['name']} is {options['mode']!r}:"
            " other users must have no access to a private key"
        )
    return mode


def ensure_authorities(params: t.Mapping[str, t.Any], store: Store, now: datetime.datetime) -> dict[str, t.Any]:
    """Install the trusted authorities; return who signs for each (None: not made yet)."""
    signers: dict[str, t.Any] = {}
    for name, text in params["authorities"].items():
        path = store.path(f"{name}.crt")
        content = str(text).encode()
        present = store.read(path)
        if not content.strip():
            if params["signed"]:
                raise PkiError(f"authority {name} has no content: give its certificate in PEM form")
            if store.dry:
                store.note(path, _describe(present), "a new authority")
            signers[name] = None
            continue
        bundle = _pki.load_bundle(content, f"authority {name}")
        content = _pki.ordered(content)
        signers[name] = bundle[0]
        if _pki.valid_until(bundle[0]) < now:
            raise PkiError(
                f"authority {name} ended on {_pki.valid_until(bundle[0]):%Y-%m-%d}: move its"
                " certificate away on the controller, so that a new one is made, and allow the"
                " replacement (replace_authorities, in role pki pki_replace_authorities)"
            )
        if present != content:
            _refuse_stranger(params, name, path, present, bundle)
            store.note(path, _describe(present), _describe(content))
            store.write(path, content, 0, 0, PUBLIC_MODE)
        store.ensure_access(path, 0, 0, PUBLIC_MODE)
    return signers


def _refuse_stranger(
    params: t.Mapping[str, t.Any], name: str, path: str, present: bytes | None, bundle: list[t.Any]
) -> None:
    if present is None or params["replace_authorities"]:
        return
    try:
        trusted = {_pki.public_bytes(item) for item in _pki.load_bundle(present, path)}
    except PkiError:
        return  # what cannot be read protects nothing
    if not trusted & {_pki.public_bytes(item) for item in bundle}:
        raise PkiError(
            f"{path} on this host is another authority {name} than the controller's: restore the"
            " directory of authorities that this cluster was made with, or allow the replacement"
            " (replace_authorities, in role pki pki_replace_authorities) and accept that members do"
            " not trust one another until all have it"
        )


def _set_seal(params: t.Mapping[str, t.Any], store: Store, authorities: t.Iterable[t.Any]) -> None:
    """Note that all is as described, until the first certificate is due."""
    margin = datetime.timedelta(days=params["renew_days"])
    ends = [_pki.valid_until(authority) for authority in authorities if authority is not None]
    names = [options["name"] for options in params["certificates"]]
    for name in names:
        path = store.path(f"{name}.crt")
        ends.append(_pki.valid_until(_pki.load_bundle(store.read(path) or b"", path)[0]) - margin)
    files = [store.path(f"{name}.crt") for name in [*params["authorities"], *names]]
    files += [store.directory, *(store.path(f"{name}.key") for name in names)]
    until = min((end.timestamp() for end in ends), default=0.0)
    text = _seal.text(params["seal"], until, files)
    store.write(store.path(".seal"), text.encode(), 0, 0, _seal.MODE)


def checked(described: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Options of C(pki_request) with their defaults. Raises PkiError with one sentence for the user."""
    result = ArgumentSpecValidator(ARGUMENTS).validate(dict(described))
    if result.error_messages:
        raise PkiError("; ".join(result.error_messages))
    params: dict[str, t.Any] = result.validated_parameters
    return params


def install(
    described: t.Mapping[str, t.Any], run: t.Callable[[list[str]], object]
) -> tuple[list[str], list[dict[str, str]]]:
    """Install what was signed, and return the files that were changed with their diff.

    Raises PkiError with a sentence, also when something was not signed, and OSError.
    """
    if not _pki.HAS_CRYPTOGRAPHY:
        raise PkiError("Python's cryptography is not installed on this host")
    result, diff = keep(checked(described), False, run)
    if result["requests"]:
        wishes = [f"{wish['name']} ({', '.join(wish['reasons'])})" for wish in result["requests"]]
        raise PkiError(f"these certificates are to be signed first: {'; '.join(wishes)}")
    return result["files_changed"], diff


def keep(
    params: t.Mapping[str, t.Any], check_mode: bool, run: t.Callable[[list[str]], object]
) -> tuple[dict[str, t.Any], list[dict[str, str]]]:
    """Make, check and install what checked parameters describe; return what C(pki_request) returns, and its diff.

    ``run`` runs a command and does not come back from one that fails. Raises PkiError with a sentence, and OSError.
    """
    store = Store(params["directory"], check_mode)
    known = set(params["authorities"])
    for options in params["certificates"]:
        _pki.wanted_from(options)  # refuse bad input before anything is written
        _pki.check_file_name("authority", options["authority"])
        _mode(options)
        if options["authority"] not in known:
            raise PkiError(
                f"certificate {options['name']} names authority {options['authority']!r},"
                f" which is none of 'authorities' ({', '.join(sorted(known)) or 'empty'})"
            )
    signed = params["signed"]
    strangers = set(signed) - {options["name"] for options in params["certificates"]}
    if strangers:
        raise PkiError(f"'signed' holds {', '.join(sorted(strangers))}, which is none of 'certificates'")
    accounts = Accounts(check_mode, run)
    accounts.ensure(params["users"])
    store.ensure_directory()
    now = datetime.datetime.now(datetime.timezone.utc)
    signers = ensure_authorities(params, store, now)
    reissue_before = _pki.parse_time(params["reissue_before"])
    requests: list[dict[str, t.Any]] = []
    installed: dict[str, dict[str, str]] = {}
    for options in params["certificates"]:
        name = options["name"]
        ids = accounts.ids(options["owner"], options["group"], name)
        pair = Pair(store, options, signed.get(name), ids)
        wish, report = pair.ensure(signers[options["authority"]], now, params["renew_days"], reissue_before)
        if wish is not None:
            requests.append(wish)
        if report is not None:
            installed[name] = report
    if params["seal"] and not requests and not store.dry and None not in signers.values():
        _set_seal(params, store, signers.values())
    result: dict[str, t.Any] = {
        "changed": bool(store.changed or accounts.made),
        "requests": requests,
        "certificates": installed,
        "files_changed": store.changed,
    }
    return result, store.diff
