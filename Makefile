# Targets: up, down, test, lint, bench, soak. All need root for real containers.
SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
# What the containers and the network need from the system; nothing else is installed outside .venv.
PACKAGES := runc conmon iproute2 libnftables1
# What only the tests need: the tool that checks our rules, a static busybox, a registry to pull from.
TEST_PACKAGES := nftables busybox-static docker-registry

.PHONY: up down test lint bench soak clean

$(VENV)/.installed: pyproject.toml tools/venv.sh
	tools/venv.sh run
	touch $@

$(VENV)/.tested: pyproject.toml $(VENV)/.installed
	tools/venv.sh test
	touch $@

up: $(VENV)/.installed
	tools/packages.sh $(PACKAGES)
	$(VENV)/bin/pinnace up
	$(VENV)/bin/pinnace demo

down:
	$(VENV)/bin/pinnace down

test: $(VENV)/.tested
	tools/packages.sh $(PACKAGES) $(TEST_PACKAGES)
	tools/test.sh

lint: $(VENV)/.tested
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: $(VENV)/.tested
	tools/packages.sh $(PACKAGES) $(TEST_PACKAGES)
	$(PYTHON) -m bench

soak: $(VENV)/.tested
	$(VENV)/bin/pytest -m soak

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
