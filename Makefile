# The two commands of a newcomer are `make up` and `make test`; `make help` lists the others.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg

# The fleet that `make up` boots; its directory holds all of it.
export HEARTCODE_FLEET_DIR ?= $(CURDIR)/.fleet
# Debian release of the virtual hosts: trixie (13) or bookworm (12).
SUITE ?= trixie
FLEET := scripts/fleet.py
fleet_json = python3 -c 'import json; print(json.load(open("$(HEARTCODE_FLEET_DIR)/fleet.json"))$(1))'
GATEWAY_PORT := 4000
# As many tests at a time. Those of one file stay together, as they share what its fixtures make.
JOBS ?= $(shell nproc)
pytest_parallel = pytest -n $(JOBS) --dist loadfile --durations=20 --durations-min=1
RUNS ?= 50
# What `.ci/run` asks (pyproject.toml has the marks), and each of these targets by itself; `make test` asks less.
TESTS ?= ci or not long
FLEET_STEPS ?= create check converge idempotence

.PHONY: help
help: ## Say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

.PHONY: bootstrap
bootstrap: ## Install the Debian and Python packages that the rest needs
	@scripts/bootstrap.sh

.PHONY: fleet
fleet: bootstrap
	@$(FLEET) create gateway rig1 rig2 --suite $(SUITE)
	@python scripts/make_demo_model.py "$$($(call fleet_json,["cache"]))/counting.gguf" >/dev/null
	@ansible-playbook -i inventory/virtual tests/nvml/rigs.yml

.PHONY: up
up: fleet ## Boot the virtual fleet and deploy to it
	@ansible-playbook -i inventory/virtual playbooks/site.yml
	@url=$$($(MAKE) -s url) && printf '\nThe fleet is up: %s\nTry it:\n\n  %s\n\n' "$$url" \
	  "curl -N $$url/v1/chat/completions -H 'Authorization: Bearer $$($(MAKE) -s key)' -H 'Content-Type: application/json' -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Count!\"}], \"max_tokens\": 50, \"stream\": true}'"

.PHONY: url
url: ## Print the base URL of the virtual fleet's gateway
	@[[ -e $(HEARTCODE_FLEET_DIR)/fleet.json ]] || { echo "There is no virtual fleet; run: make up" >&2; exit 1; }
	@echo "http://$$($(call fleet_json,["machines"]["gateway"]["address"])):$(GATEWAY_PORT)"

.PHONY: key
key: ## Print the API key that it has made
	@[[ -e $(HEARTCODE_FLEET_DIR)/gateway.key ]] || { echo "There is no virtual fleet with a key; run: make up" >&2; exit 1; }
	@cat $(HEARTCODE_FLEET_DIR)/gateway.key

.PHONY: down
down: ## End the virtual fleet; nothing of it stays
	@$(FLEET) destroy

.PHONY: proxy
proxy: bootstrap ## Run the proxy here: make proxy BACKENDS=http://127.0.0.1:8081,... PORT=8080
	@BACKENDS='$(BACKENDS)' PORT='$(or $(PORT),8080)' scripts/run_proxy.sh

.PHONY: test
test: TESTS = not ci and not long
test: FLEET_STEPS = create converge idempotence
test: bootstrap ## Run the checks and the tests of a quick loop
	@tools/test_llama_server.sh >/dev/null
	@echo "The deployment to a virtual fleet runs beside the other checks; it is shown at its end."
	@$(MAKE) -j2 --output-sync=line fleet-test test-code TESTS='$(TESTS)' FLEET_STEPS='$(FLEET_STEPS)'

.PHONY: test-code
test-code: lint unit integration gateway-test fleet-tool-test

# The longest first, as they run side by side; each says what it found in one piece.
LINTS := lint-ansible lint-types lint-rendered lint-python lint-layers lint-yaml lint-shell lint-nvml

.PHONY: lint
lint: bootstrap ## Check formats, types, imports, roles, units, nginx and Prometheus configuration
	@MAKEFLAGS= $(MAKE) -j$(JOBS) --output-sync=target SUITE=$(SUITE) $(LINTS)

.PHONY: $(LINTS)
$(LINTS): bootstrap

lint-ansible:
	ansible-lint -q

# Its cache outlives a clone: types of packages and of files that are the same are not inferred anew.
lint-types:
	mypy --cache-dir "$${XDG_CACHE_HOME:-$$HOME/.cache}/heartcode/mypy"

lint-rendered:
	tests/lint/rendered.sh $(SUITE)

lint-python:
	ruff check .
	ruff format --check .

lint-layers:
	PYTHONPATH=app:. lint-imports --no-logo --no-cache

lint-yaml:
	yamllint --strict .

lint-shell:
	shellcheck $$(git ls-files -co --exclude-standard | xargs grep -lE '^#!/(bin/sh|usr/bin/env bash)' --)

lint-nvml:
	$(MAKE) -C tests/nvml

.PHONY: unit
unit: bootstrap ## Run the unit tests
	@$(pytest_parallel) -m "$(TESTS)" tests/unit tests/contracts tests/nvml

.PHONY: integration
integration: bootstrap ## Run the integration tests, with a real llama-server
	@tools/with_llama_server.sh $(pytest_parallel) -m "$(TESTS)" tests/integration

.PHONY: test-seeds
test-seeds: bootstrap ## Run the property tests with many seeds: make test-seeds RUNS=50 (not in `make test`)
	@tools/seeds_test.sh $(RUNS) $(JOBS)

.PHONY: gateway-test
gateway-test: bootstrap ## Ask one nginx on this machine what the gateway answers, with real rigs behind it
	@tools/with_llama_server.sh $(pytest_parallel) tests/gateway tests/fuzz

SEED ?= $(shell shuf -i 1-1000000 -n 1)
REQUESTS ?= 10000

.PHONY: test-fuzz
test-fuzz: bootstrap ## Send generated requests to a gateway and a proxy: make test-fuzz SEED=n REQUESTS=10000, or ONLY=n
	@FUZZ_SEED=$(SEED) FUZZ_REQUESTS=$(REQUESTS) FUZZ_ONLY=$(ONLY) tools/with_llama_server.sh pytest tests/fuzz

MINUTES ?= 10

.PHONY: soak
soak: bootstrap ## Put steady mixed load on a gateway and a proxy, and see whether anything grows: make soak MINUTES=n
	@SOAK_MINUTES=$(MINUTES) tools/with_llama_server.sh pytest -q tests/soak

.PHONY: fleet-test
fleet-test: bootstrap ## Deploy to a virtual fleet of its own and verify it (molecule)
	@STEPS='$(FLEET_STEPS)' tools/molecule_test.sh test -m '$(TESTS)'

.PHONY: fleet-tool-test
fleet-tool-test: bootstrap ## Ask the tool that makes virtual fleets, with machines of its own
	@pytest -m "$(TESTS)" tests/fleet_tool

.PHONY: test-cuda-build
test-cuda-build: bootstrap ## Build llama.cpp with CUDA in a virtual rig and look into it (not in `make test`)
	@tools/cuda_build_test.sh

.PHONY: test-long
test-long: bootstrap ## Run the long tests, on the fleet of `make up` and on one of their own (not in `make test`)
	@$(pytest_parallel) -m "ci or long" tests/unit tests/contracts tests/nvml
	@tools/with_llama_server.sh pytest -m "ci or long" tests/integration
	@HEARTCODE_TEST_RELAY=1 tools/with_llama_server.sh pytest tests/gateway
	@pytest -m "ci or long" tests/fleet_tool tests/fleet
	@pytest tests/one_host
	@$(MAKE) test-peer

.PHONY: test-faults
test-faults: bootstrap ## Go through the fault matrix on the fleet of `make up`: make test-faults FAULTS=name,name
	@FAULTS='$(FAULTS)' pytest -q tests/fleet/test_faults.py

.PHONY: test-peer
test-peer: bootstrap ## Run llama.cpp's own server tests against llama-server and through the proxy, and compare
	@tools/peer_test.py

# What reads what a llama-server says. Another version may count, repeat and divide differently.
NEXT_TESTS := $(patsubst %,tests/integration/test_%.py, \
  surviving relay templates usage demo_model routes openai_sdk langchain sillytavern)

.PHONY: test-next
test-next: bootstrap ## Run the tests of relay and resume with a newer llama.cpp, of PyPI (not in `make test`)
	@HEARTCODE_TEST_LLAMA_SERVER="$$(tools/next_llama_server.sh)" tools/with_llama_server.sh \
	  pytest -m "not long" $(NEXT_TESTS)

.PHONY: test-pages
test-pages: bootstrap ## Look at the gateway's pages in a real browser, on the fleet of `make up` (not in `make test`)
	@tools/pages_test.sh

.PHONY: screenshots
screenshots: bootstrap ## Draw docs/pictures anew, on the fleet of `make up`
	@tools/pages_test.sh tests/pages/pictures.py

.PHONY: bench-relay
bench-relay: bootstrap ## Measure what the proxy costs for each token, beside nginx, Go's proxy and LiteLLM
	@tools/bench_relay.py $(ARGS)

.PHONY: bench-gateway
bench-gateway: bootstrap ## Measure what the gateway adds to the first token, and what its routing brings
	@tools/bench_gateway.py $(ARGS)

.PHONY: bench-warm
bench-warm: bootstrap ## Measure what conversations in files bring, side by side with none
	@tools/bench_warm.py $(ARGS)

.PHONY: bench-speculation
bench-speculation: bootstrap ## Measure what speculation without a second model brings for role-play
	@tools/bench_speculation.py $(ARGS)

.PHONY: bench-body
bench-body: bootstrap ## Measure for how long a body keeps the gateway's nginx busy, whatever is in it
	@tools/bench_body.py $(ARGS)

.PHONY: bench-reading
bench-reading: bootstrap ## Measure for how long a body keeps a rig's proxy busy, whatever is in it
	@tools/bench_reading.py $(ARGS)

.PHONY: docs
docs: bootstrap ## Write the reference (settings, metrics, roles' options) and the dashboards from the code
	@tools/reference.py
	@tools/dashboards.py

.PHONY: requirements
requirements: bootstrap ## Compile the pinned requirements from the .in files (needs uv)
	@for name in app/requirements requirements requirements-dev; do \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-emit-index-url "$$name.in" -o "$$name.txt"; done
