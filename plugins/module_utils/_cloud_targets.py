# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Where documents go: for each cloud how one is handed over, how large it may be, and how it is encoded. Pure."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils._cloud_lint import ERROR, Finding


class Target(t.NamedTuple):
    """One place.

    C(limit) in bytes of what C(counted) names: the document (raw) or its base64 form. C(encoding) is what the place
    takes: text or base64. C(packs): a gzip of the document is understood. C(knows): the machine learns its
    addresses there. C(local): only root of the machine, and whoever made the medium, can read it. C(how): how to do it.
    """

    title: str
    limit: int = 0
    counted: str = "raw"
    encoding: str = "text"
    packs: bool = False
    knows: bool = False
    local: bool = False
    how: str = ""


TARGETS: dict[str, Target] = {
    "none": Target("no place in particular"),
    "ec2": Target(
        "Amazon EC2", 16384, packs=True, knows=True, how="aws ec2 run-instances --user-data fileb://user-data"
    ),
    "gce": Target(
        "Google Compute Engine", 262144, knows=True,
        how="gcloud compute instances create NAME --metadata-from-file user-data=user-data",
    ),
    "azure": Target(
        "Azure", 65535, encoding="base64", packs=True, knows=True,
        how="az vm create --custom-data user-data (it encodes by itself; an API call takes the base64 text)",
    ),
    "digitalocean": Target(
        "DigitalOcean", 65536, knows=True, how="doctl compute droplet create NAME --user-data-file user-data"
    ),
    "rackspace": Target(
        "Rackspace", 65535, "base64", "base64", packs=True,
        how="openstack server create --config-drive true --user-data user-data (Flatcar reads the drive only)",
    ),
    "openstack": Target(
        "OpenStack", 65535, "base64", "base64", packs=True, knows=True,
        how="openstack server create --user-data user-data",
    ),
    "brightbox": Target(
        "Brightbox", 16384, "base64", "base64", packs=True, how="brightbox servers create --user-data-file user-data"
    ),
    "vmware": Target(
        "VMware", 65536, "base64", "base64", packs=True,
        how="guestinfo.userdata with guestinfo.userdata.encoding=base64 (cloud-init), or guestinfo.ignition.config.data"
        " with guestinfo.ignition.config.data.encoding=base64",
    ),
    "qemu": Target(
        "QEMU", local=True,
        how="-fw_cfg name=opt/org.flatcar-linux/config,file=config.ign (Ignition), or the ISO as a drive (cloud-init)",
    ),
    "iso": Target("a NoCloud ISO", local=True, how="attach the ISO, whose label is cidata, as a drive"),
    "nocloud": Target("a NoCloud seed directory", local=True, how="/var/lib/cloud/seed/nocloud/ on the machine's disk"),
    "config-drive": Target("a config drive", local=True, how="attach the ISO, whose label is config-2, as a drive"),
    "virtualbox": Target(
        "a Flatcar box of Vagrant", 1024, how="config.ign beside the Vagrantfile; larger ones need a stub with a URL"
    ),
    "http": Target(
        "an HTTP server", how="ignition.config.url=, cloud-config-url= or ds=nocloud;s= on the kernel's command line"
    ),
}  # fmt: skip


class Payload(t.NamedTuple):
    """What is handed over: C(text) in C(encoding), whose counted size is C(size)."""

    text: str
    encoding: str
    size: int


def payload(document: str, target: Target, packable: bool) -> tuple[Payload, Finding | None]:
    """The document as the target takes it, packed when it is too large otherwise, and what is wrong with its size."""
    raw = document.encode("utf-8", "surrogatepass")
    plain = _encoded(raw, target, "")
    if not target.limit or plain.size <= target.limit:
        return plain, None
    if target.packs and packable:
        packed = _encoded(gzip.compress(raw, 9, mtime=0), target, "gzip+")
        if packed.size <= target.limit:
            return packed, None
        plain = packed
    what = "in base64" if target.counted == "base64" else "long"
    how = ", packed," if plain.encoding.startswith("gzip") else ""
    return plain, Finding(
        "size-limit", ERROR, 0, "",
        f"is{how} {plain.size} bytes {what}, and {target.title} takes {target.limit}; bring large files after the boot,"
        " or hand over a stub that fetches the document (stub_url)",
    )  # fmt: skip


def _encoded(data: bytes, target: Target, packing: str) -> Payload:
    # what is packed is no text, so it travels in base64, whatever counts
    wrapped = bool(packing) or target.encoding == "base64"
    encoded = base64.b64encode(data)
    size = len(encoded) if target.counted == "base64" else len(data)
    text = encoded.decode() if wrapped else data.decode("utf-8", "surrogatepass")
    return Payload(text, f"{packing}base64" if wrapped else "text", size)


def stub(format_: str, url: str, document: str) -> str:
    """A small document that fetches the whole one.

    :raises ValueError: when the format knows no such thing, or the URL is none
    """
    if not url.startswith(("https://", "http://")) or any(char.isspace() for char in url):
        raise ValueError(f"stub_url is {url!r}; give an http:// or https:// URL")
    if format_ == "ignition":
        digest = hashlib.sha512(document.encode()).hexdigest()
        replace = {"source": url, "verification": {"hash": f"sha512-{digest}"}}
        content = {"ignition": {"version": "3.3.0", "config": {"replace": replace}}}
        return json.dumps(content, separators=(",", ":")) + "\n"
    if format_ == "cloud-init":
        return f"#include\n{url}\n"
    raise ValueError("stub_url is not for the format coreos, which cannot fetch another document; use ignition")
