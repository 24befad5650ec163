#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_wait
short_description: Wait for a key of etcd
version_added: 1.0.0
description:
  - Waits until a key exists, has a certain value, or is gone. It watches the key and does not ask again and again, so
    it ends as soon as that is so.
  - To wait for a healthy cluster use M(flotilla.cluster.etcd_cluster_info).
author:
  - flotilla.cluster contributors (@flotilla-cluster)
extends_documentation_fragment:
  - flotilla.cluster._attributes
  - flotilla.cluster._attributes.info_module
  - flotilla.cluster._attributes.actiongroup_etcd
  - flotilla.cluster._etcd
options:
  key:
    description:
      - The key.
    type: str
    required: true
  state:
    description:
      - Whether to wait until the key exists or until it does not.
    type: str
    choices: [present, absent]
    default: present
  value:
    description:
      - Waits until the key has this value. Without it and O(pattern) any value will do.
    type: str
  pattern:
    description:
      - Waits until the value matches this regular expression somewhere.
    type: str
  timeout:
    description:
      - Seconds to wait. The module fails when they have passed.
    type: float
    default: 300
notes:
  - A value may be a secret. Set C(no_log) on the task then.
seealso:
  - module: flotilla.cluster.etcd_kv_info
"""

EXAMPLES = r"""
---
- name: Wait until the application has registered itself
  flotilla.cluster.etcd_wait:
    key: /app/address
    timeout: 60

- name: Wait until it says that it is ready
  flotilla.cluster.etcd_wait:
    key: /app/state
    value: ready
"""

RETURN = r"""
value:
  description: The value that ended the wait, V(null) when it is not UTF-8 text or the key is gone.
  returned: success
  type: str
  sample: ready
revision:
  description: Revision of the store at which it was so.
  returned: success
  type: int
  sample: 42
waited:
  description: Seconds that the module waited.
  returned: success
  type: float
  sample: 1.25
"""

import re
import time
import typing as t
from contextlib import closing

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import (
    ETCD_ARGUMENTS,
    ETCD_REQUIRED_TOGETHER,
    EtcdUnavailable,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_stream import EtcdStreamClient, watch_body
from ansible_collections.flotilla.cluster.plugins.module_utils._http import (
    ClusterError,
    HttpError,
    OptionError,
    answer,
    printable,
)

_PAUSE = 0.3


class Condition:
    """What is waited for."""

    def __init__(self, params: t.Mapping[str, t.Any]) -> None:
        self.key = params["key"].encode("utf-8")
        self._absent = params["state"] == "absent"
        self._value: bytes | None = None if params["value"] is None else params["value"].encode("utf-8")
        self._pattern: t.Pattern[str] | None = None
        if not self.key:
            raise OptionError("key is empty; give a text that is not empty")
        if self._absent and (params["value"] is not None or params["pattern"] is not None):
            raise OptionError("state is absent, and a key that is gone has no value; leave value and pattern out")
        if params["pattern"] is not None:
            try:
                self._pattern = re.compile(params["pattern"])
            except re.error as error:
                raise OptionError(
                    f"pattern {printable(params['pattern'])!r} is no regular expression: {error}"
                ) from None

    def holds(self, value: bytes | None) -> bool:
        """:param value: None when the key does not exist"""
        if value is None or self._absent:
            return self._absent and value is None
        if self._value is not None and value != self._value:
            return False
        if self._pattern is None:
            return True
        return self._pattern.search(value.decode("utf-8", "replace")) is not None


def wait(client: EtcdStreamClient, condition: Condition) -> tuple[bytes | None, int]:
    """The value for which the condition holds, and the store's revision then.

    :raises ClusterError: when the time has passed
    """
    last: ClusterError | None = None
    value: bytes | None = None
    while True:
        found = client.range(condition.key)
        value = found.kvs[0].value if found.kvs else None
        if condition.holds(value):
            return value, found.revision
        try:
            for result in client.stream("/watch", watch_body(condition.key, found.revision + 1), silence=3600.0):
                if result.flag("canceled"):
                    break
                revision = result.object("header").integer("revision")
                for event in result.objects("events"):
                    # a put has no type: it is the zero value
                    value = None if event.text("type") == "DELETE" else event.object("kv").octets("value")
                    if condition.holds(value):
                        return value, revision
        except (EtcdUnavailable, HttpError) as error:
            # a watch ends with the member that serves it
            if isinstance(error, HttpError) and error.kind == "answer":
                raise
            last = error
        if client.deadline.left() < _PAUSE:
            state = "exists" if value is not None else "does not exist"
            more = f" ({last})" if last is not None and client.deadline.left() > 0 else ""
            raise ClusterError(
                f"what is waited for did not come within {client.deadline.seconds:g} s: the key"
                f" {printable(condition.key.decode('utf-8'))!r} {state}, and the condition does not hold{more};"
                " raise timeout, or see to who should write it"
            )
        time.sleep(_PAUSE)


def run(params: dict[str, t.Any]) -> dict[str, t.Any]:
    condition = Condition(params)
    begun = time.monotonic()
    with closing(EtcdStreamClient.of(params)) as client:
        value, revision = wait(client, condition)
    try:
        text = None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    return {"changed": False, "value": text, "revision": revision, "waited": round(time.monotonic() - begun, 3)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ETCD_ARGUMENTS,
            "key": {"type": "str", "required": True, "no_log": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "value": {"type": "str"},
            "pattern": {"type": "str"},
            "timeout": {"type": "float", "default": 300.0},
        },
        mutually_exclusive=[("value", "pattern")],
        required_together=ETCD_REQUIRED_TOGETHER,
        supports_check_mode=True,
    )
    answer(module, lambda: run(module.params))


if __name__ == "__main__":
    main()
