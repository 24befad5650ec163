#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cloud_config
short_description: Check, render and migrate what machines read at their first boot
version_added: 1.0.0
description:
  - Renders one description of a machine as a cloud-config for CoreOS and Flatcar, as an Ignition 3.3 configuration, or
    as the three documents of cloud-init.
  - Checks a description or an existing document by every rule of CoreOS's validator, and by those that it lacked. Each
    finding names the line, the key, what was seen and what is allowed.
  - Brings a document from the days of CoreOS, with its hyphenated keys, to a spelling that systems of any age read
    alike, and reports what was changed.
  - Runs where the documents are needed, most often on the controller. Documents of many machines are rendered in one
    call with O(machines).
author:
  - flotilla.cluster contributors (@flotilla-cluster)
extends_documentation_fragment:
  - flotilla.cluster._attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Contents are left out when they hold secrets.
  idempotent:
    support: full
options:
  config:
    description:
      - The description of a machine. Its keys are those of a CoreOS cloud-config, spelled with underscores, and
        C(links), C(directories), C(networks), C(filesystems), C(groups) and C(packages); the role C(cloud_config)
        has examples of all of them.
      - C($private_ipv4) and its like stand for values of O(addresses); C(\\$private_ipv4) stands for itself.
    type: dict
  machines:
    description:
      - Descriptions of many machines, in place of O(config), O(addresses) and O(dest) of one. What else is given is the
        same for all.
      - When one of them is wrong, nothing is written for any.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the machine, for messages and the result.
        type: str
        required: true
      config:
        description: As O(config).
        type: dict
        required: true
      addresses:
        description: As O(addresses).
        type: dict
        default: {}
      dest:
        description: As O(dest).
        type: path
        required: true
  document:
    description: An existing document to check, to migrate, or to render in another format.
    type: str
  src:
    description: File that holds such a document; it may be packed with gzip or be of several parts (MIME).
    type: path
  secret_files:
    description:
      - Files that hold secrets, in addition to C(write_files) of O(config). They are not checked for secrets, and no
        content is returned when there are any.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: str
        required: true
      content:
        description: The content.
        type: str
        required: true
      permissions:
        description: Mode in octal.
        type: str
        default: '0600'
      owner:
        description: User, or user and group with a colon between them.
        type: str
        default: root
  format:
    description: What to render. Without it, the description or document is only checked.
    type: str
    choices: [coreos, ignition, cloud-init]
  migrate:
    description: Whether to bring O(document) or O(src) to today's spelling.
    type: bool
    default: false
  addresses:
    description:
      - Values of C(public_ipv4), C(private_ipv4), C(public_ipv6) and C(private_ipv6). A variable whose value is missing
        or empty is an error.
      - Without this option, a document in the format V(coreos) keeps its variables for the machine's own agent.
    type: dict
  target:
    description: Where the document goes, for its limit and encoding.
    type: str
    default: none
    choices:
      - none
      - ec2
      - gce
      - azure
      - digitalocean
      - rackspace
      - openstack
      - brightbox
      - vmware
      - qemu
      - iso
      - nocloud
      - config-drive
      - virtualbox
      - http
  allow_secrets:
    description:
      - Whether private keys and passwords may be in the document. Only right where nobody else can read it, as in a
        seed directory on the machine's own disk.
    type: bool
    default: false
  stub_url:
    description:
      - URL at which the document will be found. A small document that fetches it is rendered as well and handed over
        in its place. An Ignition stub holds the document's hash.
    type: str
  fail_on:
    description: From which severity on a finding makes the module fail.
    type: str
    choices: [error, warning, never]
    default: error
  dest:
    description:
      - Directory to write the documents to, with the names that O(target) wants. It is made when it is missing.
      - Documents that an earlier call wrote there and that are not rendered any more are removed.
    type: path
  mode:
    description: Mode of the files. Directories that are made get the same with the right to enter.
    type: str
    default: '0600'
requirements:
  - PyYAML (a controller has it, as Ansible needs it)
"""

EXAMPLES = r"""
---
- name: Check an article's user-data
  flotilla.cluster.cloud_config:
    src: user-data
  delegate_to: localhost

- name: Bring it to today's spelling
  flotilla.cluster.cloud_config:
    src: user-data
    migrate: true
  register: user_data
  delegate_to: localhost

- name: Render cloud-init's documents into a seed directory
  flotilla.cluster.cloud_config:
    config:
      hostname: "{{ inventory_hostname }}"
      ssh_authorized_keys: ["{{ lookup('ansible.builtin.file', 'id_ed25519.pub') }}"]
      coreos:
        units:
          - name: hello.service
            command: start
            content: |
              [Service]
              ExecStart=/bin/echo hello from $private_ipv4
    addresses:
      private_ipv4: "{{ ansible_host }}"
    format: cloud-init
    target: nocloud
    dest: "/srv/seeds/{{ inventory_hostname }}"
  delegate_to: localhost

- name: Render documents of all machines in one call
  flotilla.cluster.cloud_config:
    machines: "{{ hostvars | flotilla.cluster.cloud_config_machines(groups['machines'], '/srv/seeds') }}"
    format: cloud-init
    target: nocloud
  delegate_to: localhost
  run_once: true

- name: Render Ignition for EC2, whose user-data is small
  flotilla.cluster.cloud_config:
    config: "{{ machine }}"
    addresses: {}
    format: ignition
    target: ec2
    stub_url: https://config.example.org/core-01.ign
    dest: /srv/http/core-01
  delegate_to: localhost
"""

RETURN = r"""
findings:
  description: What was found, in the order of lines.
  returned: always
  type: list
  elements: dict
  contains:
    rule:
      description: Name of the rule.
      returned: always
      type: str
      sample: hyphenated-key
    severity:
      description: V(error), V(warning) or V(info).
      returned: always
      type: str
      sample: error
    line:
      description: Line of the document, 0 when it has none.
      returned: always
      type: int
      sample: 7
    key:
      description: Path of the key, empty for the document as a whole.
      returned: always
      type: str
      sample: coreos.etcd2.advertise_client_urls
    message:
      description: What is wrong and what is allowed.
      returned: always
      type: str
documents:
  description: Contents by file name. V(user-data), V(config.ign), V(meta-data), V(network-config), V(stub).
  returned: when O(format) is given and no secret is in them
  type: dict
payload:
  description: What is handed over to O(target), encoded as it wants it.
  returned: when O(format) is given and no secret is in it
  type: str
encoding:
  description: V(text), V(base64) or V(gzip+base64).
  returned: when O(format) is given
  type: str
  sample: text
size:
  description: Bytes that count against RV(limit).
  returned: when O(format) is given
  type: int
  sample: 1234
limit:
  description: Bytes that O(target) takes, 0 for any number.
  returned: when O(format) is given
  type: int
  sample: 16384
how:
  description: How to hand it over.
  returned: when O(format) is given
  type: str
digest:
  description: SHA-256 over all documents.
  returned: when O(format) is given
  type: str
boot_arguments:
  description: The description's C(networks) as arguments of a kernel, for an initramfs made by dracut.
  returned: when O(format) is given
  type: list
  elements: str
  sample: ["ip=192.0.2.11::192.0.2.1:255.255.255.0:core-01:eth0:none"]
migrated:
  description: The document in today's spelling.
  returned: when O(migrate=true)
  type: str
changes:
  description: What was changed for that, each with C(rule), C(line), C(key) and C(message).
  returned: when O(migrate=true)
  type: list
  elements: dict
config:
  description: The document as data, with underscores; good for O(config).
  returned: when O(document) or O(src) is given and could be read
  type: dict
files_changed:
  description: Paths that were written or removed.
  returned: when O(dest) or O(machines) is given
  type: list
  elements: str
machines:
  description:
    - What the call has done for each of O(machines), by name. Findings with the machine's name are in RV(findings).
  returned: when O(machines) is given
  type: dict
  contains:
    changed:
      description: Whether files were written or removed.
      returned: always
      type: bool
    digest:
      description: As RV(digest).
      returned: always
      type: str
    encoding:
      description: As RV(encoding).
      returned: always
      type: str
    size:
      description: As RV(size).
      returned: always
      type: int
    boot_arguments:
      description: As RV(boot_arguments).
      returned: always
      type: list
      elements: str
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud as cloud
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_lint as lint
from ansible_collections.flotilla.cluster.plugins.module_utils._cloud_files import Plan, Writer
from ansible_collections.flotilla.cluster.plugins.module_utils._cloud_targets import TARGETS
from ansible_collections.flotilla.cluster.plugins.module_utils._host_system import HostError

try:
    import yaml
except ImportError:
    yaml = None  # type: ignore[assignment]

SEVERITIES = {"error": ("error",), "warning": ("error", "warning"), "never": ()}


def read_document(module: AnsibleModule) -> bytes | None:
    """The document to check, None when a description is given."""
    if module.params["document"] is not None:
        return str(module.params["document"]).encode("utf-8", "surrogatepass")
    src = module.params["src"]
    if src is None:
        return None
    try:
        with open(src, "rb") as stream:
            return stream.read()
    except OSError as error:
        module.fail_json(
            msg=f"src {src} cannot be read: {error.strerror}; give a file of the host that runs the module"
        )


def stop(module: AnsibleModule, findings: t.Sequence[lint.Finding], **more: t.Any) -> None:
    """End with failure when a finding is as bad as fail_on says; return otherwise."""
    bad = [one for one in findings if one.severity in SEVERITIES[module.params["fail_on"]]]
    if bad:
        module.fail_json(
            msg="; ".join(one.sentence() for one in bad), findings=[one.as_dict() for one in findings], **more
        )


def is_secret(module: AnsibleModule, rendered: cloud.Rendered) -> bool:
    """Whether documents must not be shown."""
    return bool(module.params["secret_files"]) or any(one.rule == "secret" for one in rendered.findings)


def write(module: AnsibleModule, rendered: cloud.Rendered, request: cloud.Request, dest: str, secret: bool) -> Plan:
    """Write documents to a directory; what that changes."""
    try:
        writer = Writer(dest, module.params["mode"], hide=secret)
        plan = writer.plan(cloud.layout(rendered, request), cloud.LAYOUT_NAMES)
        if not module.check_mode:
            writer.apply(plan)
    except (HostError, ValueError) as error:
        module.fail_json(msg=f"dest {dest}: {error}")
    return plan


def render_many(module: AnsibleModule, request: cloud.Request) -> dict[str, t.Any]:
    """Render all machines, then write; the module's result. One that is wrong keeps all from being written."""
    done: list[tuple[dict[str, t.Any], cloud.Request, cloud.Rendered]] = []
    findings: list[lint.Finding] = []
    for machine in module.params["machines"]:
        name, own = machine["name"], request._replace(addresses=machine["addresses"])
        try:
            rendered = cloud.render(machine["config"], own, module.params["secret_files"])
        except cloud.CloudConfigError as error:
            findings += [lint.of_machine(one, name) for one in error.findings]
            continue
        findings += [lint.of_machine(one, name) for one in rendered.findings]
        done.append((machine, own, rendered))
    if len(done) < len(module.params["machines"]):
        errors = [one for one in findings if one.severity == lint.ERROR]
        module.fail_json(msg=lint.sentences(errors), findings=[one.as_dict() for one in findings])
    stop(module, findings)
    result: dict[str, t.Any] = {"findings": [one.as_dict() for one in findings], "machines": {}, "files_changed": []}
    differences: list[dict[str, str]] = []
    for machine, own, rendered in done:
        plan = write(module, rendered, own, machine["dest"], is_secret(module, rendered))
        told = cloud.described(rendered, own, secret=True)
        kept = {key: told[key] for key in ("digest", "encoding", "size", "boot_arguments")}
        result["machines"][machine["name"]] = {"changed": bool(plan.paths), **kept}
        result["files_changed"] += [os.path.join(machine["dest"], one) for one in plan.paths]
        differences += [
            {**one, **{key: f"{machine['name']}: {one[key]}" for key in one if key.endswith("_header")}}
            for one in plan.differences
        ]
    warnings = [one for one in findings if one.severity == lint.WARNING]
    if warnings:
        module.warn(lint.sentences(warnings))
    return {"changed": bool(result["files_changed"]), **result, **({"diff": differences} if module._diff else {})}


def render(module: AnsibleModule, checked: lint.Checked, request: cloud.Request) -> dict[str, t.Any]:
    """Render and write; the module's result."""
    params = module.params
    # what cannot be rendered is an error whatever fail_on says
    try:
        rendered = cloud.render_checked(checked, request, params["secret_files"])
    except cloud.CloudConfigError as error:
        module.fail_json(msg=str(error), findings=[one.as_dict() for one in error.findings])
    stop(module, rendered.findings)
    secret = is_secret(module, rendered)
    result = {"changed": False, **cloud.described(rendered, request, secret)}
    result["findings"] = [one.as_dict() for one in rendered.findings]
    if params["dest"]:
        plan = write(module, rendered, request, params["dest"], secret)
        result.update(changed=bool(plan.paths), files_changed=[os.path.join(params["dest"], one) for one in plan.paths])
        if module._diff:
            result["diff"] = plan.differences
    for one in rendered.findings:
        if one.severity == "warning":
            module.warn(one.sentence())
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "dict"},
            "machines": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "config": {"type": "dict", "required": True},
                    "addresses": {"type": "dict", "default": {}},
                    "dest": {"type": "path", "required": True},
                },
            },
            "document": {"type": "str"},
            "src": {"type": "path"},
            "secret_files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "no_log": True,
                "options": {
                    "path": {"type": "str", "required": True},
                    "content": {"type": "str", "required": True, "no_log": True},
                    "permissions": {"type": "str", "default": "0600"},
                    "owner": {"type": "str", "default": "root"},
                },
            },
            "format": {"type": "str", "choices": ["coreos", "ignition", "cloud-init"]},
            "migrate": {"type": "bool", "default": False},
            "addresses": {"type": "dict"},
            "target": {"type": "str", "default": "none", "choices": list(TARGETS)},
            # says whether, and is none itself
            "allow_secrets": {"type": "bool", "default": False, "no_log": False},
            "stub_url": {"type": "str"},
            "fail_on": {"type": "str", "choices": ["error", "warning", "never"], "default": "error"},
            "dest": {"type": "path"},
            "mode": {"type": "str", "default": "0600"},
        },
        required_one_of=[("config", "document", "src", "machines")],
        mutually_exclusive=[
            ("config", "document", "src", "machines"),
            ("config", "migrate"),
            *(("machines", one) for one in ("migrate", "addresses", "dest", "stub_url")),
        ],
        required_by={"dest": ["format"], "stub_url": ["format"], "machines": ["format"]},
        supports_check_mode=True,
    )
    if yaml is None:
        module.fail_json(msg=missing_required_lib("PyYAML"))
    params = module.params
    request = cloud.Request(
        format=params["format"] or "coreos",
        addresses=params["addresses"],
        target=params["target"],
        allow_secrets=params["allow_secrets"],
        stub_url=params["stub_url"] or "",
    )
    if params["machines"] is not None:
        module.exit_json(**render_many(module, request))
    document = read_document(module)
    more: dict[str, t.Any] = {}
    # only CoreOS's agent puts addresses in by itself
    leave = request.addresses is None and params["format"] in (None, "coreos")
    addresses = None if leave else request.addresses or {}
    if document is None:
        checked = lint.check_data(params["config"], addresses=addresses, allow_secrets=request.allow_secrets)
    else:
        if params["migrate"]:
            try:
                migrated = cloud.migrate(document)
            except cloud.CloudConfigError as error:
                module.fail_json(msg=str(error), findings=[one.as_dict() for one in error.findings])
            more = {"migrated": migrated.document, "changes": migrated.changes}
            document = migrated.document.encode("utf-8", "surrogatepass")
        checked = lint.check_text(document, addresses=addresses, allow_secrets=request.allow_secrets)
        more["config"] = checked.data
    if params["format"]:
        module.exit_json(**{**render(module, checked, request), **more})
    if not params["migrate"]:
        # what is left after a migration is for the reader of its report
        stop(module, checked.findings, **more)
    module.exit_json(changed=False, findings=[one.as_dict() for one in checked.findings], **more)


if __name__ == "__main__":
    main()
