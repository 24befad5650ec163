#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_load
short_description: Bring container images from an archive to hosts
version_added: 1.0.0
description:
  - Loads an archive into docker, or podman under docker's command, on hosts that do not have its images yet. A registry
    is not needed.
  - The archive is read on the controller. Only hosts that lack one of its images get it, all at the same time, and its
    SHA-256 is checked again before it is loaded.
  - An image is told by the digest of its configuration, never by its name; a name that points at another image, or at
    none, is set.
author:
  - flotilla.cluster contributors (@flotilla-cluster)
extends_documentation_fragment:
  - flotilla.cluster._attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  src:
    description:
      - Path of the archive on the controller, or on the host with O(remote_src). What C(docker save) writes, or a tar
        of an OCI layout; plain, or compressed with gzip, bzip2 or xz.
    type: path
    required: true
  sha256:
    description: SHA-256 that the archive must have, in hexadecimal.
    type: str
  remote_src:
    description: Whether the archive is on the host already.
    type: bool
    default: false
  images:
    description: What the archive holds. The controller fills it in; leave it out.
    type: list
    elements: dict
    suboptions:
      config:
        description: Digest of the image's configuration.
        type: str
        required: true
      manifest:
        description: Digest of the image's manifest.
        type: str
        default: ''
      tags:
        description: Names of the image.
        type: list
        elements: str
        default: []
notes:
  - Needs docker's command on the host, and nothing else.
seealso:
  - module: flotilla.cluster.host_service
"""

EXAMPLES = r"""
---
- name: Bring an image to all machines
  flotilla.cluster.image_load:
    src: images/shop-1.4.tar.gz
    sha256: 8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4
"""

RETURN = r"""
images:
  description: The images of the archive.
  returned: success
  type: list
  elements: dict
  sample:
    - config: sha256:6e35cbdf80c9b0b6c5d4d2e1e3f4a5b6c7d8e9f0a1b2c3d4e5f60718293a4b5c
      manifest: ''
      tags: [shop/web:1.4]
loaded:
  description: Whether the archive was loaded, or in check mode would be.
  returned: success
  type: bool
  sample: true
tagged:
  description: Names that were given to images which were there already.
  returned: success
  type: list
  elements: str
  sample: []
"""

import os
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flotilla.cluster.plugins.module_utils import _images as images
from ansible_collections.flotilla.cluster.plugins.module_utils._digest import sha256_of

LISTING = ("image", "ls", "--all", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}")


class Engine:
    """docker's command on this host."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._program = module.get_bin_path("docker")

    def call(self, *words: str) -> str:
        """Output of the command. Raises ArchiveError with one sentence when it fails."""
        if not self._program:
            raise images.ArchiveError("this host has no docker command: run role docker first")
        code, out, err = self._module.run_command([self._program, *words])
        if code:
            said = (err or out).strip() or f"it ended with {code}"
            raise images.ArchiveError(f"docker {' '.join(words[:2])} failed: {said}")
        return str(out)

    def present(self) -> dict[str, set[str]]:
        """Images of this host and their names."""
        return images.parse_listing(self.call(*LISTING))


def difference(
    wanted: t.Sequence[images.Image], present: t.Mapping[str, t.AbstractSet[str]], done: bool
) -> dict[str, str]:
    """What the names of the images stand for, before and after."""
    now = {name: identity for identity, names in present.items() for name in names}
    rows: dict[str, list[str]] = {"before": [], "after": []}
    for image in wanted:
        known = any(identity in present for identity in image.ids)
        for name in image.tags or (image.config,):
            there = now.get(name, image.config if known and not image.tags else "not there")
            rows["before"].append(f"{name}: {image.config if there in image.ids else there}\n")
            rows["after"].append(f"{name}: {image.config}\n")
    before = "".join(rows["before"])
    return {"before": before, "after": "".join(rows["after"]) if done else before}


def load(module: AnsibleModule, engine: Engine, archive: images.Archive) -> None:
    """Load the archive, after its SHA-256. Raises ArchiveError."""
    path, wanted = module.params["src"], (module.params["sha256"] or "").lower()
    found = sha256_of(path) if wanted else ""
    if found != wanted:
        raise images.ArchiveError(f"{path} has the SHA-256 {found}, not {wanted}: nothing was loaded")
    if archive.docker:
        engine.call("load", "--input", path)
        return
    # An older docker does not know OCI's layout, a newer one takes both.
    with tempfile.TemporaryDirectory(prefix="flotilla-", dir=os.path.dirname(path)) as folder:
        target = os.path.join(folder, "archive.tar")
        images.write_for_docker(path, target, archive.manifest)
        engine.call("load", "--input", target)


def work(module: AnsibleModule) -> dict[str, t.Any]:
    """Do it; returns the result. Raises ArchiveError and OSError."""
    params = module.params
    engine = Engine(module)
    given = [images.Image(entry["config"], entry["manifest"], tuple(entry["tags"])) for entry in params["images"] or []]
    archive = None if given else images.read_archive(params["src"])
    wanted = given or (list(archive.images) if archive else [])
    present = engine.present()
    decision = images.decide(wanted, present)
    if not module.check_mode and decision.changed:
        if decision.load:
            # of an archive that has just come from the controller nothing is known here but its images
            load(module, engine, archive or images.read_archive(params["src"]))
            after = images.decide(wanted, engine.present())
        else:
            after = decision
        if after.load:
            raise images.ArchiveError(f"docker has loaded {params['src']}, but does not have the images of it")
        for identity, name in after.tags:
            engine.call("tag", identity, name)
    result: dict[str, t.Any] = {
        "changed": decision.changed,
        "images": [image._asdict() for image in wanted],
        "loaded": decision.load,
        "tagged": [name for _identity, name in decision.tags],
    }
    if module._diff:
        result["diff"] = difference(wanted, present, decision.changed)
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "src": {"type": "path", "required": True},
            "sha256": {"type": "str"},
            "remote_src": {"type": "bool", "default": False},
            "images": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "config": {"type": "str", "required": True},
                    "manifest": {"type": "str", "default": ""},
                    "tags": {"type": "list", "elements": "str", "default": []},
                },
            },
        },
        supports_check_mode=True,
    )
    problem = ""
    result: dict[str, t.Any] = {}
    try:
        result = work(module)
    except images.ArchiveError as error:
        problem = str(error)
    except OSError as error:
        problem = f"{error.filename or 'this host'}: {error.strerror or error}"
    # Outside of the handlers, so that Ansible adds no traceback to what is a sentence for the user.
    if problem:
        module.fail_json(msg=problem)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
