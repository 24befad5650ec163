# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Reads keys of etcd, for people and playbooks."""

from __future__ import annotations

import base64
import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import EtcdClient, KeyValue
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_kv import encoded, text_or_base64
from ansible_collections.flotilla.cluster.plugins.module_utils._http import OptionError


def query(
    client: EtcdClient, *, keys: t.Sequence[str], prefixes: t.Sequence[str], keys_only: bool, limit: int
) -> dict[str, t.Any]:
    """What the info module returns: keys and all keys below prefixes, each once.

    :param limit: greatest number of keys for each prefix, 0 for all
    """
    if limit < 0:
        raise OptionError(f"limit is {limit}; give 0 for all keys, or a number greater than 0")
    for option, names in (("keys", keys), ("prefixes", prefixes)):
        if "" in names:
            raise OptionError(f"{option} has an empty entry; give a text that is not empty")
    found: dict[bytes, KeyValue] = {}
    named = [encoded("keys", "key", key) for key in dict.fromkeys(keys)]
    single, revision = client.read_keys(named, keys_only=keys_only)
    for kv in single.values():
        if kv is not None:
            found[kv.key] = kv
    unread = 0
    for prefix in dict.fromkeys(prefixes):
        result = client.read_prefix(encoded("prefixes", "prefix", prefix), keys_only=keys_only, limit=limit)
        revision = revision or result.revision
        unread += max(0, result.total - len(result.kvs))
        found.update((kv.key, kv) for kv in result.kvs)
    answer: dict[str, t.Any] = {
        "kvs": [_described(found[key], keys_only) for key in sorted(found)],
        "count": len(found) + unread,
        "revision": revision,
    }
    if not keys_only:
        answer["data"] = {item["key"]: item["value"] for item in answer["kvs"] if item["value"] is not None}
    return answer


def _described(kv: KeyValue, keys_only: bool) -> dict[str, t.Any]:
    item: dict[str, t.Any] = {
        "key": text_or_base64(kv.key),
        "create_revision": kv.create_revision,
        "mod_revision": kv.mod_revision,
        "version": kv.version,
        "lease": kv.lease,
    }
    if not keys_only:
        try:
            item["value"] = kv.value.decode("utf-8")
        except UnicodeDecodeError:
            item["value"] = None
            item["value_base64"] = base64.b64encode(kv.value).decode("ascii")
    return item
