# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Members that find each other by a private discovery service: Debian's etcd by v2, a built 3.6 by v3.

Part of make test-etcd, as root: three members, and a host that runs the service.
"""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from daytwo.lab import Lab, unchanged, words

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="local hosts are made by root")

MEMBERS = ["dd-01", "dd-02", "dd-03"]
SERVICE = "dd-04"
GROUPS = """
all:
  children:
    discovery:
      hosts: {dd-04: {}}
"""
TOKEN = re.compile(r"(?<=/)[0-9a-f]{32}\b")
WAITING = """
printf 'FLOTILLA_ETCD_BOOTSTRAP="--discovery-fallback=exit --discovery-proxy="\\n' >/etc/flotilla/etcd-bootstrap.env
printf 'ETCD_DISCOVERY=%s\\n' {token} >/etc/flotilla/etcd-discovery.env
systemctl start --no-block etcd
for _ in $(seq 100); do
    python3 -c 'import urllib.request, sys; print(urllib.request.urlopen("{token}").read())' | grep -q {host}= && exit
    sleep 0.1
done
exit 1
"""


class Discovery(Lab):
    """Three members and a host with a service."""

    def up(self) -> None:
        super().up()
        (self.folder / "groups.yml").write_text(GROUPS)

    def serve(self, protocol: str) -> str:
        return self.play("discovery.yml", more=["-i", str(self.folder / "groups.yml")], discovery_protocol=protocol)

    @property
    def url(self) -> str:
        return f"http://{self.addresses[3]}:8087"

    @property
    def kept(self) -> list[str]:
        return [path.read_text().strip() for path in (self.folder / ".discovery").glob("*")]

    def token(self, size: int = 3) -> str:
        with urllib.request.urlopen(f"{self.url}/new?size={size}") as answer:
            made: str = answer.read().decode()
        return made

    def form(self, *, fails: bool = False, more: tuple[str, ...] = (), **variables: str) -> str:
        wanted = {"etcd_bootstrap": "discovery", "etcd_discovery_url": self.url, **variables}
        return self.play("cluster.yml", fails=fails, more=more, **wanted)

    def wipe(self) -> None:
        for host in MEMBERS:
            self.on(host, "systemctl stop etcd; rm -rf /var/lib/etcd/*; rm -f /etc/flotilla/etcd-*.env")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Discovery]:
    made = Discovery(tmp_path_factory.mktemp("lab"), os.environ.get("ETCD_CLUSTER", "etcddisc"), "dd-", 4)
    try:
        made.up()
        made.serve("v2")
        yield made
    finally:
        made.down()


def test_the_service_is_kept_as_it_is_and_keeps_no_token(lab: Discovery) -> None:
    assert unchanged(lab.serve("v2"))
    # what is left of the ones that proved it is empty
    keys = "http://127.0.0.1:8088/v2/keys/_etcd/registry?recursive=true"
    listed = lab.on(SERVICE, f"python3 -c 'import urllib.request; print(urllib.request.urlopen(\"{keys}\").read())'")
    assert '"value"' not in listed


def test_a_token_that_does_not_do_is_refused_before_any_host_is_changed(lab: Discovery) -> None:
    used = lab.token()
    body = urllib.request.Request(
        f"{used}/1f?prevExist=false",
        data=b"value=other=https://192.0.2.9:2380",
        method="PUT",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    urllib.request.urlopen(body).close()
    wrong = {
        f"{lab.url}/{'0' * 32}": "the token is unknown to the service: create a new one",
        lab.token(5): "the token is for 5 members, not for 3; create one for 3, or correct size",
        used: "the token is another cluster's: other (https://192.0.2.9:2380) registered with it; create a new one",
        lab.url: "token does not end in 32 hexadecimal digits",
    }
    for token, sentence in wrong.items():
        said = lab.form(fails=True, etcd_discovery_token=token)
        assert sentence in words(said)
        assert token == lab.url or token not in said
        assert "changed=0" in said
    for host in MEMBERS:
        assert lab.on(host, "ls /etc/flotilla 2>/dev/null || true") == ""


def test_a_cluster_is_formed_and_the_token_is_a_secret(lab: Discovery) -> None:
    token = lab.token()
    said = lab.form(more=("-vvv", "--diff"), etcd_discovery_token=token)
    digits = token.rpartition("/")[2]
    # the variable itself is on the command line, which -vvv does not repeat
    assert digits not in said
    assert lab.kept == []
    assert lab.etcdctl("member list").count("started") == 3
    for host in MEMBERS:
        # etcd itself writes it into its log, which root and the group adm may read
        places = "/etc /run/systemd /tmp /root /usr/lib/systemd"
        assert lab.on(host, f"grep -rl {digits} {places} 2>/dev/null || true") == ""
        assert digits not in lab.on(host, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
        assert lab.on(host, "ls /etc/flotilla").split() == ["etcdctl.env", "pki"]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{token}/_config/size")


def test_it_runs_without_the_service(lab: Discovery) -> None:
    lab.on(SERVICE, "systemctl stop flotilla-discovery flotilla-discovery-store")
    try:
        assert unchanged(lab.form())
        lab.on(MEMBERS[2], "systemctl kill --signal KILL etcd; systemctl stop etcd; rm -rf /var/lib/etcd/member")
        assert "has lost its data" in words(lab.form(fails=True))
        lab.play(
            "etcd_replace.yml", etcd_replace_host=MEMBERS[2], etcd_bootstrap="discovery", etcd_discovery_url=lab.url
        )
        assert lab.etcdctl("member list").count("started") == 3
        assert unchanged(lab.form())
    finally:
        lab.on(SERVICE, "systemctl start flotilla-discovery")


def test_a_run_that_was_killed_while_members_waited_is_finished(lab: Discovery) -> None:
    lab.wipe()
    token = lab.token()
    lab.on(MEMBERS[0], WAITING.format(token=token, host=MEMBERS[0]))
    assert "registered with the token already" in words(lab.form(fails=True, etcd_discovery_token=token))
    assert lab.kept == [token]
    lab.form()
    assert lab.kept == []
    assert lab.etcdctl("member list").count("started") == 3
    assert unchanged(lab.form())


def test_members_from_36_on_find_each_other_in_an_etcd(lab: Discovery) -> None:
    lab.use("3.6")
    lab.wipe()
    lab.on(
        SERVICE,
        "systemctl disable --now flotilla-discovery flotilla-discovery-store; rm -rf /var/lib/flotilla/discovery",
    )
    assert "etcd_discovery_protocol is v2, which etcd knows" not in words(lab.serve("v3"))
    assert unchanged(lab.serve("v3"))
    registry = [f"https://{lab.addresses[3]}:8087"]
    said = lab.play("cluster.yml", more=("-vvv",), etcd_bootstrap="discovery", etcd_discovery_endpoints=registry)
    assert lab.etcdctl("member list").count("started") == 3
    keys = f"ETCDCTL_API=3 etcdctl --endpoints {registry[0]} get --prefix --keys-only /_etcd/"
    assert lab.on(MEMBERS[0], f". /etc/profile.d/flotilla-etcdctl.sh; unset ETCDCTL_ENDPOINTS; {keys}").strip() == ""
    assert not re.search(r"registry/[0-9a-f]{32}", said)
    lab.on(SERVICE, "systemctl stop flotilla-discovery-store")
    assert unchanged(lab.play("cluster.yml", etcd_bootstrap="discovery", etcd_discovery_endpoints=registry))


def test_a_version_that_does_not_know_the_protocol_is_refused(lab: Discovery) -> None:
    lab.use("3.7")
    said = lab.play(
        "cluster.yml", fails=True, etcd_bootstrap="discovery", etcd_discovery_protocol="v2", etcd_discovery_url=lab.url
    )
    assert "etcd_discovery_protocol is v2, which etcd knows up to 3.6, not 3.7" in words(said)
