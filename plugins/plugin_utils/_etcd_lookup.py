# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this plugin util is PRIVATE to the collection.
# It can change in breaking ways at any time.

"""What the lookups of etcd have in common: their options, their client, and how values become text."""

from __future__ import annotations

import base64
import os
import typing as t
from contextlib import closing

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.flotilla.cluster.plugins.module_utils import _http, _http_session
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import (
    ETCD_ARGUMENTS,
    EtcdClient,
    KeyValue,
)


def client_parameters(option: t.Callable[[str], t.Any]) -> dict[str, t.Any]:
    """The parameters of C(ETCD_ARGUMENTS); C(user:password), as etcdctl takes it, is two of them.

    :raises OptionError: for a user without a password
    """
    found = {name: option(name) for name in ETCD_ARGUMENTS}
    for name in ("ca_cert", "client_cert", "client_key"):
        found[name] = os.path.expanduser(found[name] or "")
    if found["username"] and not found["password"]:
        found["username"], colon, found["password"] = found["username"].partition(":")
        if not colon:
            raise _http.OptionError(f"username is {found['username']} and password is not set; set both or none")
    return found


def readable(kv: KeyValue, encoded: bool) -> str:
    """The value as text, or as its base64.

    :raises OptionError: for one that is no text
    """
    if encoded:
        return base64.b64encode(kv.value).decode("ascii")
    try:
        return kv.value.decode("utf-8")
    except UnicodeDecodeError:
        key = _http.printable(kv.key.decode("utf-8", "replace"))
        raise _http.OptionError(f"the value of {key} is not UTF-8 text; read it with base64=true") from None


class EtcdLookup(LookupBase):
    """A lookup that asks etcd."""

    def run(self, terms: list[str], variables: t.Any = None, **kwargs: t.Any) -> list[t.Any]:
        """Return what C(find) finds; AnsibleLookupError with one sentence when that cannot be."""
        plugin: t.Any = self  # ansible-core's plugins have no annotations
        plugin.set_options(var_options=variables, direct=kwargs)
        if _http_session.REQUESTS_ERROR is not None:
            raise AnsibleLookupError("python3-requests is not installed on the controller; install it")
        for term in terms:
            if not isinstance(term, str) or not term:
                raise AnsibleLookupError(f"{term!r} is no key of etcd; give a text that is not empty")
        try:
            with closing(EtcdClient.of(client_parameters(plugin.get_option))) as client:
                return self.find(client, [str(term) for term in terms], plugin.get_option)
        except _http.ClusterError as error:
            raise AnsibleLookupError(str(error)) from error

    def find(self, client: EtcdClient, terms: list[str], option: t.Callable[[str], t.Any]) -> list[t.Any]:
        """One result for each term, in their order; ClusterError."""
        raise NotImplementedError
