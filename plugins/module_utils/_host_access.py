# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
# Do not use this code from other collections or standalone plugins and modules!

"""Option C(etcd_auth) of C(host_service): users of an etcd, as soon as it answers.

Loaded only for a service that has the option: it takes longer to load than a run without changes.
"""

from __future__ import annotations

import time
import typing as t
from contextlib import closing

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.flotilla.cluster.plugins.module_utils import _etcd_auth as auth
from ansible_collections.flotilla.cluster.plugins.module_utils import _fleet_left as left
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import (
    ETCD_ARGUMENTS,
    ETCD_REQUIRED_TOGETHER,
    EtcdClient,
    EtcdUnavailable,
    EtcdUncertain,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import ClusterError
from ansible_collections.flotilla.cluster.plugins.module_utils._http_plain import PlainClient

ARGUMENTS: dict[str, t.Any] = {
    **ETCD_ARGUMENTS,
    **auth.WANTED_ARGUMENTS,
    **left.LEFT_ARGUMENTS,
}
_PAUSE = 0.3


class Done(t.NamedTuple):
    """What was done, a sentence each; the machines whose users were removed; before and after."""

    changes: list[str]
    removed: list[str]
    diff: dict[str, t.Any]


def checked(described: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The option with its defaults. Raises ValueError with one sentence for the user."""
    validator = ArgumentSpecValidator(ARGUMENTS, required_together=ETCD_REQUIRED_TOGETHER)
    result = validator.validate(dict(described))
    if result.error_messages:
        raise ValueError(f"etcd_auth: {'; '.join(result.error_messages)}.")
    params: dict[str, t.Any] = result.validated_parameters
    try:
        auth.parse_wanted(params)
        left.check_machines(params["machines"] or [])
    except ClusterError as error:
        raise ValueError(f"etcd_auth: {error}.") from None
    return params


def make(params: t.Mapping[str, t.Any], deadline: float, check_mode: bool) -> Done:
    """Makes the users, or in check mode only looks, until the deadline (time.monotonic()).

    Raises ClusterError. A write that nobody knows about is read again.
    """
    while True:
        seconds = max(1.0, deadline - time.monotonic())
        try:
            patience = {**params, "timeout": min(seconds, params["timeout"])}
            with closing(EtcdClient.of(patience, http=PlainClient)) as client:
                return _attempt(client, params, check_mode)
        except (EtcdUnavailable, EtcdUncertain):
            if time.monotonic() + _PAUSE > deadline:
                raise
            time.sleep(_PAUSE)


def _attempt(client: EtcdClient, params: t.Mapping[str, t.Any], check_mode: bool) -> Done:
    wanted = auth.parse_wanted(params)
    names = auth.read_names(client)
    seen = auth.read(client, wanted, names)
    steps = auth.plan(wanted, seen)
    removed: list[str] = []
    # Nothing is left behind where nobody has been yet.
    if params["machines"] is not None and seen.enabled:
        more, removed = left.leave_plan(left.read_left(client, params["machines"], params["prefix"], names))
        steps += more
    if not check_mode:
        auth.carry_out(client, steps)
    return Done([step.what for step in steps], removed, auth.difference(wanted, seen))
