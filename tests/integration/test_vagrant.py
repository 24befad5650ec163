# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Vagrantfile: what it asks Vagrant for, what it refuses, and that Vagrant itself takes it.

Debian's package vagrant brings Ruby as well. It is installed when it is missing, and the tests are skipped where it is
not to be had.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUB = Path(__file__).with_name("vagrant_stub.rb")

OLD_CONFIG = """
# Size of the CoreOS cluster created by Vagrant
$num_instances=2
# Used to fetch a new discovery token for a cluster of size $num_instances
$new_discovery_url="https://discovery.example.org/new?size=#{$num_instances}"
# Automatically replace the discovery token on 'vagrant up'
if File.exists?('user-data') && ARGV[0].eql?('up')
  require 'open-uri'
  require 'yaml'
  token = open($new_discovery_url).read
  data = YAML.load(IO.readlines('user-data')[1..-1].join)
  data['coreos']['etcd2']['discovery'] = token
  File.open('user-data', 'w') { |file| file.write("#cloud-config\\n\\n#{YAML.dump(data)}") }
end
$update_channel='beta'
$vb_memory = 2*1024
$shared_folders = {'/srv/a' => '/srv/b'}
$forwarded_ports = {80 => 8080}
"""


@pytest.fixture(scope="module")
def ruby() -> str:
    """Ruby, as it comes with Vagrant."""
    if not (shutil.which("ruby") and shutil.which("vagrant")):
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            pytest.skip("vagrant is not installed, and only root can install it")
        apt = ["apt-get", "-qq", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", "install", "vagrant"]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(apt, env=environment, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            pytest.skip(f"apt does not give vagrant: {done.stderr[-300:]}")
    return "ruby"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of vagrant/, which a test may fill."""
    copy = tmp_path / "vagrant"
    shutil.copytree(
        ROOT / "vagrant", copy, ignore=shutil.ignore_patterns("config.rb", "user-data", "seeds", ".vagrant")
    )
    return copy


def load(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ruby", str(STUB), str(folder / "Vagrantfile")],
        env={"PATH": os.environ["PATH"], "HOME": "/home/x", "LANG": "C.UTF-8", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def asked(folder: Path, **environment: str) -> dict[str, Any]:
    """What the Vagrantfile asked for."""
    done = load(folder, **environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def machines(found: dict[str, Any]) -> list[str]:
    return [key.partition(":")[2] for key in found["vm"] if key.startswith("define:")]


def test_the_defaults_are_three_machines_with_keys_of_their_own(ruby: str, folder: Path) -> None:
    found = asked(folder)
    assert machines(found) == ["core-01", "core-02", "core-03"]
    assert found["ssh"]["insert_key"] is True
    second = found["vm"]["define:core-02"]["vm"]
    override = second["override:virtualbox"]["vm"]
    assert override["hostname"] == "core-02"
    assert second["provider:lxc"]["container_name"] == "core-02"
    assert override["box"] == "flatcar-stable"
    assert ["private_network", {"ip": "192.168.56.102"}] in override["network"]
    assert second["override:lxc"]["vm"]["box"] == "flotilla-debian-lxc"
    assert second["override:libvirt"]["vm"]["box"] == "flotilla-debian-libvirt"


@pytest.mark.parametrize("count", [1, 5])
def test_as_many_machines_as_asked_for(ruby: str, folder: Path, count: int) -> None:
    (folder / "config.rb").write_text(f"$num_instances = {count}\n$instance_name_prefix = 'node'\n")
    assert machines(asked(folder)) == [f"node-{number:02d}" for number in range(1, count + 1)]


def test_the_environment_counts_where_config_rb_says_nothing(ruby: str, folder: Path) -> None:
    assert len(machines(asked(folder, NUM_INSTANCES="4"))) == 4
    (folder / "config.rb").write_text("$num_instances = 2\n")
    assert len(machines(asked(folder, NUM_INSTANCES="4"))) == 2


def test_an_old_config_rb_is_accepted_and_its_token_block_named(ruby: str, folder: Path) -> None:
    (folder / "config.rb").write_text(OLD_CONFIG)
    document = "#cloud-config\n# a comment\nwrite_files: [{path: /x, permissions: 0644}]\n"
    (folder / "user-data").write_text(document)
    done = load(folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert machines(found) == ["core-01", "core-02"]
    assert "config.rb:7: the block that fetches a discovery token" in done.stderr
    assert "$new_discovery_url is ignored" in done.stderr
    assert (folder / "user-data").read_text() == document
    second = found["vm"]["define:core-02"]["vm"]
    assert second["provider:virtualbox"]["memory"] == 2048
    assert second["override:virtualbox"]["vm"]["box"] == "flatcar-beta"
    ports = [{"guest": 80, "host": 8081, "host_ip": "127.0.0.1", "auto_correct": True}]
    assert [port[1] for port in second["network"]] == ports
    assert second["synced_folder"][0][:2] == ["/srv/a", "/srv/b"]


def test_machines_may_be_emulated(ruby: str, folder: Path) -> None:
    first = asked(folder)["vm"]["define:core-01"]["vm"]
    assert first["provider:libvirt"]["driver"] == "kvm"
    assert "boot_timeout" not in first["override:libvirt"]["vm"]
    (folder / "config.rb").write_text('$libvirt_driver = "qemu"\n')
    first = asked(folder)["vm"]["define:core-01"]["vm"]
    assert first["provider:libvirt"]["driver"] == "qemu"
    assert first["override:libvirt"]["vm"]["boot_timeout"] == 1200


def test_documents_of_a_machine_reach_it(ruby: str, folder: Path) -> None:
    seed = folder / "seeds/core-01"
    seed.mkdir(parents=True)
    (seed / "user-data").write_text("#cloud-config\n")
    (folder / "seeds/core-01.iso").write_bytes(b"")
    (folder / "user-data").write_text("#cloud-config\n# of all\n")
    found = asked(folder)["vm"]
    first, second = found["define:core-01"]["vm"], found["define:core-02"]["vm"]
    mounts = [one[1] for one in first["provider:lxc"]["customize"] if one[0] == "mount.entry"]
    assert mounts == [f"{seed} var/lib/cloud/seed/nocloud none bind,ro,create=dir 0 0"]
    assert first["provider:libvirt"]["storage"][0][1]["path"] == f"{seed}.iso"
    assert first["override:virtualbox"]["vm"]["provision"][0][1]["source"] == str(seed / "user-data")
    assert second["override:virtualbox"]["vm"]["provision"][0][1]["source"] == str(folder / "user-data")
    assert "mount.entry" not in [one[0] for one in second["provider:lxc"]["customize"]]


def test_docker_over_tcp_needs_tls(ruby: str, folder: Path) -> None:
    (folder / "config.rb").write_text("$expose_docker_tcp = 2376\n")
    assert "would let anyone who reaches port 2376 be root, as $docker_tls_directory is not set" in load(folder).stderr
    (folder / "config.rb").write_text("$expose_docker_tcp = 2376\n$docker_tls_directory = 'tls'\n")
    assert "tls lacks ca.pem, cert.pem, key.pem" in load(folder).stderr
    (folder / "tls").mkdir()
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (folder / "tls" / name).touch()
    port = asked(folder)["vm"]["define:core-02"]["vm"]["network"][0][1]
    assert (port["guest"], port["host"], port["host_ip"]) == (2376, 2377, "127.0.0.1")


def test_a_box_is_compared_with_its_checksum(ruby: str, folder: Path) -> None:
    box = folder / "my.box"
    box.write_bytes(b"box")
    good = hashlib.sha256(b"box").hexdigest()
    for wanted, words in ((good, ""), ("0" * 64, f"has the SHA-256 {good}, and $box_checksum is {'0' * 64}")):
        (folder / "config.rb").write_text(f"$box = 'mine'\n$box_url = 'my.box'\n$box_checksum = '{wanted}'\n")
        assert words in load(folder).stderr
        assert (load(folder).returncode == 0) == (wanted == good)
    box.unlink()
    assert "cannot be computed: $box_url is my.box, and there is no file" in load(folder).stderr
    (folder / "config.rb").write_text(f"$box = 'mine'\n$box_url = 'https://a.example/b'\n$box_checksum = '{good}'\n")
    assert asked(folder)["vm"]["box_download_checksum"] == good


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("$num_instances = 0", "$num_instances is 0; give 1 to 99"),
        ("$num_instances = 'three'", '$num_instances is "three"; give a number'),
        ("$num_instances = ENV['N'].to_i", "config.rb:1: $num_instances is not a plain value"),
        ("$update_channel = 'gamma'", '$update_channel is "gamma"; give alpha, beta, stable, lts'),
        ("$vm_memory = 64", "$vm_memory is 64; give 512 to"),
        ("$address_prefix = '172.17.8'", "which docker uses for its own network"),
        ("$address_prefix = '300.1.1'", "give three numbers such as 192.168.56"),
        ("$forwarded_ports = {80 => 99999}", "$forwarded_ports holds 99999"),
        ("$instance_name_prefix = 'Core 1'", "give small letters, digits and '-'"),
        ("$box_checksum = 'abc'", "give the 64 hexadecimal digits"),
        ("$libvirt_driver = 'xen'", '$libvirt_driver is "xen"; give kvm or qemu'),
        ("$num_instances = (", "config.rb is not Ruby"),
    ],
)
def test_bad_settings_are_one_sentence(ruby: str, folder: Path, text: str, words: str) -> None:
    (folder / "config.rb").write_text(text + "\n")
    done = load(folder)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "words"), [("", "is empty"), ("hostname: x\n", 'begins with "hostname: x"; its first line has to be')]
)
def test_a_user_data_that_is_none_is_told(ruby: str, folder: Path, text: str, words: str) -> None:
    (folder / "user-data").write_text(text)
    assert words in load(folder).stderr


def test_the_samples_are_as_good_as_nothing(ruby: str, folder: Path) -> None:
    plain = asked(folder)
    shutil.copy(folder / "config.rb.sample", folder / "config.rb")
    assert asked(folder) == plain
    # every setting of the sample is one, with its default
    text = (folder / "config.rb.sample").read_text().replace("\n#$", "\n$")
    skipped = ("$box", "$expose", "$docker")
    (folder / "config.rb").write_text("\n".join(line for line in text.split("\n") if not line.startswith(skipped)))
    done = load(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == plain


def test_the_sample_of_user_data_has_no_fault() -> None:
    from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_lint

    assert _cloud_lint.check_text((ROOT / "vagrant/user-data.sample").read_bytes()).findings == []


def test_vagrant_itself_takes_it(ruby: str, folder: Path) -> None:
    environment = {**os.environ, "VAGRANT_CWD": str(folder), "VAGRANT_HOME": str(folder / ".home"), "LANG": "C.UTF-8"}
    command = ["vagrant", "validate", "--ignore-provider"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "config.rb").write_text("$num_instances = 0\n")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "$num_instances is 0; give 1 to 99" in done.stdout + done.stderr


@pytest.mark.parametrize("provider", ["libvirt", "lxc"])
def test_a_provider_that_is_here_knows_every_setting(ruby: str, folder: Path, provider: str) -> None:
    """Only a provider's own plugin can say that, and it says it of one that is wrong."""
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", f"vagrant-{provider}"]
    if subprocess.run(query, capture_output=True, text=True, timeout=30, check=False).stdout != "installed":
        pytest.skip(f"the package vagrant-{provider} is not installed")
    environment = {**os.environ, "VAGRANT_CWD": str(folder), "VAGRANT_HOME": str(folder / ".home"), "LANG": "C.UTF-8"}
    environment["VAGRANT_DEFAULT_PROVIDER"] = provider
    command = ["vagrant", "validate"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    vagrantfile = folder / "Vagrantfile"
    block = f"provider :{provider} do |{provider}, override|\n"
    assert block in vagrantfile.read_text()
    vagrantfile.write_text(vagrantfile.read_text().replace(block, f"{block}        {provider}.no_such_setting = 1\n"))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "no_such_setting" in done.stdout + done.stderr
