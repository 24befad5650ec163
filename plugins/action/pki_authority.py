# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The action of M(flotilla.cluster.pki_authority); its options are documented there."""

from __future__ import annotations

import datetime
import importlib
import os
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
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
}
# A host's clock may be behind the controller's.
BACKDATED = "-1d"


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

    def make(self, name: str) -> None:
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
                "common_name": f"{self._params['cluster']} {name}",
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
            with Runner(roots) as runner:
                result.update(self._work(Authorities(runner, params), params))
        except (RunnerError, OSError) as exc:
            raise AnsibleActionFail(f"cannot work with the authorities in {params['directory']}: {exc}") from exc
        return result

    def _work(self, authorities: Authorities, params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        made = authorities.missing()
        wanted = any(params["requests"].values())
        if self._task.check_mode:
            return {"changed": bool(made or wanted), "made": made, "signed": {}}
        if made:
            os.makedirs(params["directory"], mode=0o700, exist_ok=True)
        for name in made:
            authorities.make(name)
        signed = {
            asker: {request["name"]: authorities.sign(request) for request in requests}
            for asker, requests in params["requests"].items()
            if requests
        }
        return {"changed": bool(made or signed), "made": made, "signed": signed}
