# pd-router. `make help` says what there is; everything is installed into $(VENV) from the lock files.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
PORT ?= 8000
OPS_PORT ?= 8001
ARGS ?=
CHROMIUM ?= /usr/bin/chromium
ROUNDS ?= 2
PREFIX ?= localhost/
MINUTES ?= 10
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11
UV := uv==0.13.9

bin := $(VENV)/bin
python := $(bin)/python
pip_install := $(python) -m pip install --disable-pip-version-check --quiet
# A lock file is whole, so nothing is left to resolve. With its resolver pip stops at an extra (`coverage[toml]`) of which
# there is a newer release than the one in the lock.
install_lock := $(pip_install) --require-hashes --no-deps --requirement
lock := build/uv/bin/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --group build --extra dns --extra kv-events --extra otel \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet --upgrade

# The first of $(PYTHON) that is 3.11 or newer; fails with what to install.
define find_python
found=; for candidate in $(PYTHON); do \
	if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$candidate; break; fi; \
done; \
[ -n "$$found" ] || { echo "pd-router needs Python 3.11 or newer; none of these is: $(PYTHON) (name one: make PYTHON=/path/to/python)" >&2; exit 1; }; \
"$$found" -c 'import ensurepip, venv' 2>/dev/null || { echo "$$found has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
endef

.PHONY: help run run-vllm test test-faults test-observability test-console screenshots test-image soak test-vllm mutants \
	check bench bench-faults bench-chats image lock clean

help: ## this list
	@echo "make TARGET [PORT=8000] [OPS_PORT=8001] [ARGS=...] [PYTHON=...] [VENV=.venv]"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F '\t' '{ printf "  %-18s %s\n", $$1, $$2 }'

run: $(VENV)/.runtime ## simulated fleet (2 prefill + 2 decode) and gateway on 127.0.0.1:$(PORT); ARGS='--ask "..."' asks and ends
	@$(bin)/pd-router run --port $(PORT) --ops-port $(OPS_PORT) $(ARGS)

run-vllm: $(VENV)/.dev ## real vLLM engines on the CPU with NIXL, and the gateway; the first time it installs vLLM (1 GB)
	@$(python) deploy/local/demo.py $(ARGS)

test: $(VENV)/.dev ## unit and integration tests, with the coverage gate; needs no engine
	@$(python) -m pytest --cov --cov-report=term $(ARGS)

test-faults: $(VENV)/.dev ## what each fault of an engine costs the clients, as a table; at full size
	@FAULTS_FULL=1 $(python) -m pytest tests/faults $(ARGS)

soak: $(VENV)/.dev ## every kind of fault in turn under load, for MINUTES=10; nothing may be lost, left or grown
	@$(python) -m tests.soak.soak --minutes $(MINUTES) $(ARGS)

test-observability: $(VENV)/.dev build/prometheus/usr/bin/promtool ## dashboards, rules and alerts on a Prometheus that scrapes a gateway under load
	@build/prometheus/usr/bin/promtool check config deploy/prometheus/prometheus.yml
	@build/prometheus/usr/bin/promtool test rules deploy/prometheus/tests/*.test.yml
	@$(python) -m pytest tests/observability -s $(ARGS)

test-console: $(VENV)/.console $(CHROMIUM) ## the console in a real headless Chromium; root is needed once, to install that
	@CHROMIUM=$(CHROMIUM) $(python) -m pytest tests/console $(ARGS)

screenshots: $(VENV)/.console $(CHROMIUM) ## docs/screenshots anew: the console idle, under load, with an engine frozen
	@CHROMIUM=$(CHROMIUM) $(python) -m tests.console.screenshots $(ARGS)

test-vllm: $(VENV)/.dev ## acceptance tests against real vLLM engines
	@$(python) -m pytest tests/vllm $(ARGS)

mutants: $(VENV)/.mutation ## break what must not break in every small way: which mutants does no unit test notice? about 10 minutes
	@$(bin)/mutmut run $(ARGS)
	@$(bin)/mutmut results

check: $(VENV)/.dev ## format, lint, types, structure; prints how large the code is
	@$(bin)/ruff format --check .
	@$(bin)/ruff check .
	@$(bin)/mypy
	@$(python) -m pytest tests/structure
	@$(python) -m tests.support.sizes

bench: $(VENV)/.runtime ## the gateway beside nginx, vllm-router and smg, about 3 minutes; ROUNDS=10 for figures to quote
	@$(python) -m bench.compare --rounds $(ROUNDS) --json build/bench.json --svg build/bench.svg $(ARGS)

bench-faults: $(VENV)/.runtime ## what each fault costs the clients of the gateway, vllm-router and smg, about 15 minutes
	@$(python) -m bench.faults --json build/faults.json $(ARGS)

image: ## images of the gateway and of a simulated engine, without Docker; needs root, buildah and debootstrap
	@PREFIX=$(PREFIX) docker/build.sh

test-image: $(VENV)/.dev ## build the images, and put a request through them as non-root on a read-only root; needs root
	@PREFIX=$(PREFIX) $(python) -m pytest tests/image -s $(ARGS)

bench-chats: $(VENV)/.runtime ## what chats reuse and wait for behind the gateway, vllm-router and smg, about 11 minutes
	@$(python) -m bench.chats --rounds 3 --json build/chats.json $(ARGS)

lock: build/uv/bin/uv ## resolve pyproject.toml anew into requirements.lock and requirements-dev.lock
	@$(lock) --output-file requirements.lock
	@$(lock) --extra dev --constraints requirements.lock --output-file requirements-dev.lock
	@$(lock) --extra dev --group mutation --constraints requirements-dev.lock --output-file requirements-mutation.lock
	@$(lock) --extra dev --group console --constraints requirements-dev.lock --output-file requirements-console.lock

clean: ## remove the environment and everything that can be made again
	@rm -rf $(VENV) build dist mutants htmlcov pd_router.egg-info .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find router tests deploy bench -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.runtime: requirements.lock
	@$(find_python); echo "making $(VENV) with $$($$found --version)"; $$found -m venv --clear $(VENV)
	@$(install_lock) requirements.lock
	@$(pip_install) --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@echo "installing the test tools"
	@$(install_lock) requirements-dev.lock
	@$(python) -m pip check --disable-pip-version-check --quiet
	@touch $@

$(VENV)/.mutation: requirements-mutation.lock $(VENV)/.dev
	@echo "installing the mutation tester"
	@$(install_lock) requirements-mutation.lock
	@touch $@

$(VENV)/.console: requirements-console.lock $(VENV)/.dev
	@echo "installing the browser's driver"
	@$(install_lock) requirements-console.lock
	@touch $@

/usr/bin/chromium:
	@command -v apt-get >/dev/null || { echo "there is no $@; name a Chromium: make CHROMIUM=/path/to/chromium" >&2; exit 1; }
	@[ "$$(id -u)" -eq 0 ] || { echo "there is no $@; as root: apt-get install --no-install-recommends chromium" >&2; exit 1; }
	@apt-get update --quiet && DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends chromium

# Debian's package, unpacked and not installed, as installing it would start the service.
build/prometheus/usr/bin/promtool:
	@command -v apt-get >/dev/null || { echo "the package prometheus is taken from Debian or Ubuntu" >&2; exit 1; }
	@rm -rf build/prometheus; mkdir -p build/prometheus
	@cd build/prometheus && { apt-get download --quiet prometheus || { \
		echo "apt's lists are missing or old: this needs root once, for apt-get update" >&2; \
		apt-get update --quiet && apt-get download --quiet prometheus; }; }
	@dpkg --extract build/prometheus/prometheus_*.deb build/prometheus

build/uv/bin/uv: Makefile
	@$(find_python); $$found -m venv --clear build/uv
	@build/uv/bin/python -m pip install --disable-pip-version-check --quiet $(UV)
	@touch $@
