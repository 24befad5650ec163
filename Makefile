# `make` alone lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

HOSTS ?= 3
HOST ?= core-01
# an environment variable, so that the shell does not take it apart
export CMD ?=
BIN := .venv/bin
# Programs of .venv first: ansible starts some of its own by name.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ A cluster on this machine
.PHONY: up down ssh
up: venv ## start a cluster of local hosts (HOSTS=3) and print its machines and units
	@$(BIN)/python tools/up.py --hosts $(HOSTS)

down: ## stop the local hosts and remove all that was made for them
	@python3 tools/hosts.py down --cluster local --all

ssh: ## open a shell on a local host (HOST=core-01), or run one command there (CMD='uptime')
	@python3 tools/hosts.py ssh --cluster local $(HOST) $${CMD:+"$$CMD"}

##@ Tests
.PHONY: test lint pytest units sanity integration molecule base apt-lists
test: venv ## all of the stages below, up to the first that fails (KEEP_GOING=1: to the last)
	@tools/stages.sh lint pytest units sanity integration molecule test-faults-quick

LINTERS := lint-python lint-types lint-yaml lint-ansible lint-docs
.PHONY: $(LINTERS)
lint: venv ## ruff, mypy, yamllint, ansible-lint, and what documentation and changelog must be
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target $(LINTERS)

lint-python:
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(BIN)/shellcheck tools/*.sh tests/bench/*.sh tests/engine/*.sh .ci/run

lint-types:
	$(BIN)/mypy

lint-yaml:
	$(BIN)/yamllint --strict .

# Playbooks that others import are loaded with an inventory, and that of local hosts may not be there.
lint-ansible:
	ANSIBLE_INVENTORY=inventories/example/hosts.yml $(BIN)/ansible-lint -q

lint-docs:
	$(BIN)/antsibull-changelog lint
	$(BIN)/antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs=self .

pytest: venv apt-lists ## plain pytest: fleet, tools, roles' documentation, and the unit tests of plugins
	$(BIN)/pytest

units: venv ## ansible-test units: modules on the oldest Python here
	@$(BIN)/python tools/run_ansible_test.py units

sanity: venv ## ansible-test sanity: every Python here
	@$(BIN)/python tools/run_ansible_test.py sanity

integration: venv apt-lists base ## plain pytest with root's powers: modules on a real etcd and fleet, local hosts
	$(BIN)/pytest tests/integration

molecule: venv base ## the Molecule scenario: a cluster of three made, checked, hurt and removed
	$(BIN)/molecule test --scenario-name default

# once a machine, some minutes, which Ansible and pytest would not show
base:
	@python3 tools/hosts.py base

# tests run the distribution's etcd, which apt knows only once it has a list of packages
apt-lists:
	@ls /var/lib/apt/lists/*Packages* >/dev/null 2>&1 || apt-get -qq update

.PHONY: test-faults test-faults-quick
# what the quick part measures is not how fast a busy machine is: it waits for long
test-faults-quick: venv base ## some faults on three local hosts, about three minutes (part of make test)
	FAULTS_SLACK=$${FAULTS_SLACK:-15} $(BIN)/pytest tests/faults -m quick --durations=0

test-faults: venv base ## every fault on three local hosts, and broken variants that must be found: about forty minutes
	$(BIN)/pytest tests/faults -v --durations=0

.PHONY: test-firstboot test-cloud test-vagrant test-vagrant-libvirt
test-vagrant: venv apt-lists ## vagrant up with LXC and a box made here, three machines listed: about three minutes
	$(BIN)/pytest -rP tests/vagrant -k lxc

test-vagrant-libvirt: venv apt-lists ## the same with libvirt, its machines emulated in software: five to thirty minutes
	$(BIN)/pytest -rP tests/vagrant -k libvirt

test-cloud: venv apt-lists base ## documents on running hosts, judged by Ignition, cloud-init and CoreOS's agent: about four minutes
	$(BIN)/pytest tests/cloud

.PHONY: test-netboot
test-netboot: venv apt-lists ## a bare virtual machine installs itself from the network and joins: ten to forty minutes
	$(BIN)/pytest -rP tests/netboot

test-firstboot: venv base ## three hosts that get user-data and nothing else become a cluster, about two minutes
	$(BIN)/molecule test --scenario-name firstboot

.PHONY: test-services
test-services: venv base ## every example of a service deployed, updated, hurt and removed, on three hosts: about five minutes
	$(BIN)/molecule test --scenario-name services

.PHONY: test-docker
test-docker: venv base ## role docker with all it can, the firewall, images, a registry, podman, on four local hosts: some minutes
	$(BIN)/molecule test --scenario-name docker
	$(BIN)/pytest tests/engine

.PHONY: test-etcd
test-etcd: venv base ## discovery, certificates, upgrades and losses of etcd on local hosts: about twenty minutes
	$(BIN)/pytest tests/daytwo

##@ Measurements
.PHONY: bench-up bench-failover bench-fleet bench-deploy bench-etcd bench-scale
bench-up: venv ## the play beside a script that does the minimum, on fresh hosts
	@$(BIN)/python tests/bench/bench_up.py

bench-failover: venv ## from the death of a machine to its unit active elsewhere
	@$(BIN)/python tests/bench/bench_failover.py

bench-fleet: venv ## our fleet beside upstream's, on the same hosts in one run
	@$(BIN)/python tests/bench/bench_fleet.py

bench-deploy: venv ## containers deployed by role service beside Swarm's, on the same hosts in one run
	@$(BIN)/python tests/bench/bench_deploy.py

bench-etcd: venv ## keys put by a play, writes the role's etcd takes beside one by hand, and the last day two
	@$(BIN)/python tests/bench/bench_etcd.py

bench-scale: venv ## how fleet's engine grows: 1,000 simulated machines, 10,000 units, a real etcd
	@$(BIN)/python tests/bench/bench_scale.py

##@ Upkeep
.PHONY: venv lock docs
venv: ## make .venv from requirements/dev.txt
	@tools/venv.sh

lock: venv ## make requirements/dev.txt from dev.in (UPGRADE=1: with the newest versions)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade) \
		requirements/dev.in --output-file requirements/dev.txt

docs: venv ## write what documentation takes from the sources: roles' variables, fleetctl's commands
	@$(BIN)/python tools/role_docs.py
	@$(BIN)/python tools/fleetctl_docs.py
