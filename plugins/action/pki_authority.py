# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The action of M(flotilla.cluster.pki_authority); its options are documented there."""

from __future__ import annotations

import contextlib
import datetime
import importlib
import os
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.flotilla.cluster.plugins.module_utils import _lock, _pki
from ansible_collections.flotilla.cluster.plugins.plugin_utils._module_runner import (
    Runner,
    RunnerError,
)

ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "directory": {"type": "path", "required": True},
    "authorities": {"type": "list", "elements": "str", "default": []},
    "cluster": {"type": "str", "default": "flotilla"},
    "passphrase": {"type": "str", "default": "", "no_log": True},
    "authority_days": {"type": "int", "default": 3650},
    "days": {"type": "int", "default": 365},
    "requests": {"type": "dict", "default": {}},
    "rotation": {"type": "str", "choices": ["trust", "switch", "drop"]},
    "reissue_before": {"type": "str", "default": ""},
}
BACKDATED = f"-{_pki.BACKDATED.days}d"
LOCK_TIMEOUT = 60


class Authorities:
    """The folder of authorities, and what is done with them through community.crypto's modules."""

    def __init__(self, runner: Runner, params: t.Mapping[str, t.Any]) -> None:
        self._runner = runner
        self._params = params
        self._passphrase = params["passphrase"] or None
        self._ends: dict[str, str] = {}

    def _path(self, name: str, suffix: str) -> str:
        return os.path.join(self._params["directory"], f"{name}.{suffix}")

    def missing(self) -> list[str]:
        """Return the names of authorities without a certificate."""
        return [name for name in self._params["authorities"] if not os.path.exists(self._path(name, "crt"))]

    def make(self, name: str, common_name: str = "") -> None:
        """Make an authority; a key that is there already is kept."""
        key = self._path(name, "key")
        encryption = {"cipher": "auto", "passphrase": self._passphrase} if self._passphrase else {}
        self._runner.call(
            "community.crypto.openssl_privatekey",
            {
                "path": key,
                "type": "ECC",
                "curve": "secp256r1",
                # The older format derives the key from the passphrase with one round of MD5.
                "format": "pkcs8",
                "format_mismatch": "convert",
                "mode": "0600",
                **encryption,
            },
        )
        request = self._runner.call(
            "community.crypto.openssl_csr_pipe",
            {
                "privatekey_path": key,
                "privatekey_passphrase": self._passphrase,
                "common_name": common_name or f"{self._params['cluster']} {name}",
                "use_common_name_for_san": False,
                "basic_constraints": ["CA:TRUE", "pathlen:0"],
                "basic_constraints_critical": True,
                "key_usage": ["keyCertSign", "cRLSign"],
                "key_usage_critical": True,
            },
        )
        self._runner.call(
            "community.crypto.x509_certificate",
            {
                "path": self._path(name, "crt"),
                "csr_content": request["csr"],
                "privatekey_path": key,
                "privatekey_passphrase": self._passphrase,
                "provider": "selfsigned",
                "selfsigned_not_before": BACKDATED,
                "selfsigned_not_after": f"+{self._params['authority_days']}d",
                "mode": "0644",
            },
        )

    def rotate(self, name: str, step: str, dry: bool) -> bool:
        """Take an authority one step further in its rotation, if it is not there yet; return whether it was not.

        Which step is next is read from the files, so that a run that was killed is finished by the next one: with
        C(<name>.next.crt) the new one is trusted and does not sign yet, with two certificates in C(<name>.crt) the old
        one is still trusted.
        """
        paths = {suffix: self._path(name, suffix) for suffix in ("key", "crt", "next.key", "next.crt")}
        present = _blocks(paths["crt"])
        coming = _blocks(paths["next.crt"])[:1] if os.path.exists(paths["next.crt"]) else []
        done, after = rotated(present, coming, step, _pki.parse_time(self._params["reissue_before"]))
        if done or dry:
            return not done
        if step == "trust" and not coming:
            stamp = f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%dT%H%M%SZ}"
            self.make(f"{name}.next", f"{self._params['cluster']} {name}"[:47] + f" {stamp}")
            after = present + _blocks(paths["next.crt"])[:1]
        _write(paths["crt"], b"".join(after))
        if step == "switch":
            if os.path.exists(paths["next.key"]):
                os.replace(paths["next.key"], paths["key"])
            os.unlink(paths["next.crt"])
        return True

    def sign(self, request: t.Mapping[str, t.Any]) -> str:
        """Sign one request and return the certificate in PEM form."""
        name = request["authority"]
        result = self._runner.call(
            "community.crypto.x509_certificate_pipe",
            {
                "csr_content": request["csr"],
                "provider": "ownca",
                "ownca_path": self._path(name, "crt"),
                "ownca_privatekey_path": self._path(name, "key"),
                "ownca_privatekey_passphrase": self._passphrase,
                "ownca_not_before": BACKDATED,
                "ownca_not_after": min(self._wanted_end(), self._end(name)),
            },
        )
        return str(result["certificate"])

    def _wanted_end(self) -> str:
        days = datetime.timedelta(days=self._params["days"] - 1)
        return f"{datetime.datetime.now(datetime.timezone.utc) + days:%Y%m%d%H%M%SZ}"

    def _end(self, name: str) -> str:
        if name not in self._ends:
            found = self._runner.call("community.crypto.x509_certificate_info", {"path": self._path(name, "crt")})
            self._ends[name] = found["not_after"]
        return self._ends[name]


def rotated(
    present: list[bytes], coming: list[bytes], step: str, reissue_before: datetime.datetime | None
) -> tuple[bool, list[bytes]]:
    """Decide what one step of a rotation comes to.

    :param present: certificates of the authority's file, the one that signs first
    :param coming: the new certificate that does not sign yet, if there is one
    :returns: whether nothing is to be done, and the certificates afterwards
    :raises PkiError: for a step that is not the next one
    """
    if step == "trust":
        first = _pki.load_bundle(present[0], "the authority")[0]
        new = reissue_before is not None and _pki.issued(first) >= reissue_before
        if not coming and (len(present) > 1 or new):
            return True, present
        return bool(coming) and coming[0] in present, present + [block for block in coming if block not in present]
    if step == "switch":
        return not coming, coming + [block for block in present if block not in coming]
    if coming:
        raise _pki.PkiError(
            "the new authority does not sign yet, so the old one cannot be dropped: run rotate_certs.yml from its start"
        )
    return len(present) == 1, present[:1]


def _blocks(path: str) -> list[bytes]:
    """The certificates in a file, each as text."""
    with open(path, "rb") as handle:
        return _pki.blocks(handle.read())


def _write(path: str, content: bytes) -> None:
    """Replace a file that everybody may read, at once."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "wb") as handle:
        handle.write(content)
        os.fchmod(handle.fileno(), 0o644)
        os.fsync(handle.fileno())
    os.replace(temporary, path)


@contextlib.contextmanager
def alone(directory: str) -> t.Iterator[None]:
    """Keep other plays of this controller away from the authorities: two would make two of each."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not _lock.take(held, LOCK_TIMEOUT):
            raise _pki.PkiError(
                f"another play has been working with them for more than {LOCK_TIMEOUT} s; wait until it ends, or find"
                f" it with 'fuser {directory}'"
            )
        yield
    finally:
        os.close(held)


def collection_roots(collection: str) -> list[str]:
    """Return the folders above C(ansible_collections) in which a collection lies."""
    package = importlib.import_module(f"ansible_collections.{collection}")
    return [os.path.abspath(os.path.join(path, "..", "..", "..")) for path in package.__path__]


class ActionModule(ActionBase):
    """Runs on the controller only, so no connection is needed."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_diff = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Return what RETURN of the module describes."""
        result = super().run(tmp, task_vars)
        action: t.Any = self  # ansible-core's plugins have no annotations
        _validation, params = action.validate_argument_spec(argument_spec=ARGUMENTS)
        try:
            roots = collection_roots("community.crypto")
        except ImportError:
            raise AnsibleActionFail(
                "the collection community.crypto is not installed on the controller: install it"
                " with ansible-galaxy collection install community.crypto"
            ) from None
        try:
            with contextlib.ExitStack() as held:
                if not self._task.check_mode:
                    held.enter_context(alone(params["directory"]))
                runner = held.enter_context(Runner(roots))
                result.update(self._work(Authorities(runner, params), params))
        except (RunnerError, OSError, _pki.PkiError) as exc:
            raise AnsibleActionFail(f"cannot work with the authorities in {params['directory']}: {exc}") from exc
        return result

    def _work(self, authorities: Authorities, params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        made = authorities.missing()
        wanted = any(params["requests"].values())
        if params["rotation"]:
            dry = bool(self._task.check_mode)
            moved = [name for name in params["authorities"] if authorities.rotate(name, params["rotation"], dry)]
            return {"changed": bool(moved), "made": [], "signed": {}, "rotated": moved}
        if self._task.check_mode:
            return {"changed": bool(made or wanted), "made": made, "signed": {}}
        for name in made:
            authorities.make(name)
        signed = {
            asker: {request["name"]: authorities.sign(request) for request in requests}
            for asker, requests in params["requests"].items()
            if requests
        }
        return {"changed": bool(made or signed), "made": made, "signed": signed}
