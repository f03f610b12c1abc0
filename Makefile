# The targets make what they need: a virtual environment in .venv with this program (editable) and its tools.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# How long `make check-all` fuzzes, in seconds.
FUZZ_SECONDS ?= 300

.PHONY: help run test check check-all check-service check-container check-tls check-acme fuzz bench safety coverage format examples clean

help:
	@echo "make run       serve examples/firmware on port 8000"
	@echo "make test      run the tests (trial tests)"
	@echo "make check     ruff, mypy, documentation, news fragments"
	@echo "make fuzz      feed made-up images to the reading of images for FUZZ_SECONDS ($(FUZZ_SECONDS))"
	@echo "make check-all check, test, fuzz, and the four below (as root)"
	@echo "make check-service    install the service into a Debian of its own, and see it live"
	@echo "make check-container  build the container image and run it, by podman"
	@echo "make check-tls        let sslyze and testssl.sh scan it"
	@echo "make check-acme       let certbot renew certificates of the running server"
	@echo "make check-api   ask the operator's API all that its description allows, and what it doesn't, for a minute"
	@echo "make coverage  run the tests and report the lines and branches they reach"
	@echo "make bench     compare with nginx and http.server (Debian packages nginx, wrk)"
	@echo "make safety    make the numbers and plots of docs/safety.md anew (an hour on one core)"
	@echo "make format    lay the code out with ruff"
	@echo "make examples  make examples/firmware anew with esptool"
	@echo "make clean     remove what the targets made"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: Python 3.11 or newer is needed; name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || \
	  { echo "make: Python's venv module is incomplete; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Only what serving needs, so that the first `make run` is quick.
$(VENV)/run.stamp: $(VENV)/bin/python setup.py pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=24' 'setuptools>=77'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# There are no wheels of the fuzzer for every system, and only this needs it.
$(VENV)/fuzz.stamp: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	@touch $@

run: $(VENV)/run.stamp
	$(BIN)/twistd --nodaemon --pidfile= ota --dir examples/firmware --state $(VENV)/state --port 8000 --log info

test: $(VENV)/dev.stamp
	$(BIN)/trial tests

coverage: $(VENV)/dev.stamp
	$(BIN)/coverage erase
	$(BIN)/coverage run -m twisted.trial tests
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

check: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.documents
	$(BIN)/towncrier build --draft --version NEXT >$(VENV)/news.txt

# Bytes that show a fault stay in .fuzz/crashes: python -m tests.fuzz.image FILE reads them again.
fuzz: $(VENV)/fuzz.stamp
	$(BIN)/python -m tests.fuzz.image --seconds $(FUZZ_SECONDS)

check-all: check test fuzz check-service check-container check-tls check-acme

# Debian packages: podman runc netavark iptables uidmap debootstrap docker-compose podman-compose
check-container: $(VENV)/dev.stamp
	$(BIN)/python -m tests.system.container

# Debian packages: debootstrap systemd-container
check-service: $(VENV)/dev.stamp
	$(BIN)/python -m tests.system.service

# It needs other versions of what the server needs, so it has an environment of its own.
$(VENV)/scan.stamp: $(VENV)/dev.stamp
	$(BIN)/python -m venv $(VENV)/scan
	$(VENV)/scan/bin/python -m pip install --quiet --disable-pip-version-check 'sslyze>=6.3'
	@touch $@

# Debian package: testssl.sh
check-tls: $(VENV)/scan.stamp
	$(BIN)/python -m tests.system.tls_scan

# Debian packages: pebble certbot
check-acme: $(VENV)/dev.stamp
	$(BIN)/python -m tests.system.acme

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev.stamp
	$(BIN)/python -m bench

safety: $(VENV)/dev.stamp
	$(BIN)/python -m bench.safety --jobs 2

examples: $(VENV)/dev.stamp
	$(BIN)/python -m tests.images examples/firmware

clean:
	rm -rf $(VENV) build dist *.egg-info _trial_temp* .cache .fuzz .coverage* .mypy_cache .ruff_cache .hypothesis
