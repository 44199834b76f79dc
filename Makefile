# kvtier: `make` or `make help` says what can be made.
#
# Everything that is downloaded or built and worth keeping lives in KVTIER_CACHE, so a second clone is quick.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export KVTIER_CACHE ?= $(HOME)/.cache/kvtier
export CARGO_TARGET_DIR ?= $(KVTIER_CACHE)/target

PREFIX ?= /usr/local
DESTDIR ?=
SEED ?=
BENCH_ARGS ?=
SECONDS_EACH ?= 30

.PHONY: help
help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) KVTIER_CACHE=$(KVTIER_CACHE)"

.PHONY: setup
setup: ## check what the machine has; as root on Debian, install what is missing
	@scripts/setup.sh build

.PHONY: build
build: setup ## build the daemon, the admin command, the library and the bench (release)
	@scripts/build.sh

.PHONY: demo
demo: ## show it: daemon + real vLLM engines: compute, SIGKILL, restart, share
	@scripts/demo.sh

.PHONY: test
test: ## run everything, the vLLM end-to-end suite included
	@scripts/test.sh all

.PHONY: test-rust
test-rust: ## run the Rust and C part of the tests only
	@scripts/test.sh rust

.PHONY: test-python
test-python: ## run the Python and vLLM part of the tests only
	@scripts/test.sh python

.PHONY: lint
lint: setup ## check formatting, lints, scripts, licences and advisories
	@scripts/lint.sh

.PHONY: wheel
wheel: setup ## build dist/kvtier-*.whl, which carries libkvtier.so
	@scripts/wheel.sh

.PHONY: install
install: build ## install under PREFIX (and DESTDIR): programs, library, header, manual pages, completions, systemd unit
	@scripts/install.sh '$(DESTDIR)' '$(PREFIX)'

.PHONY: man
man: setup ## write the manual pages of kvtier and kvtierd to dist/man
	cargo run --locked --quiet -p kvstore --bin kvtier -- man dist/man

.PHONY: dist
dist: build ## make what is handed out, in dist/: tarball, Debian package, wheel, chart, bill of materials
	@scripts/dist.sh

.PHONY: test-chart
test-chart: setup ## test the Helm chart, its alert rules and the packages only
	@scripts/chart.sh

.PHONY: bench
bench: build ## measure; BENCH_ARGS are passed on (for example BENCH_ARGS='lookup --json')
	@scripts/bench.sh $(BENCH_ARGS)

.PHONY: sim
sim: setup ## run the engine's simulation; SEED=N replays one run
	cargo sim -- $(if $(SEED),--seed $(SEED))

.PHONY: fuzz
fuzz: setup ## fuzz every decoder; SECONDS_EACH=N for each of them
	@scripts/fuzz.sh $(SECONDS_EACH)

.PHONY: venv
venv: setup ## build the Python environment with vLLM that demo and test use
	@scripts/venv.sh

.PHONY: clean
clean: ## remove what was built inside this clone
	rm -rf target dist python-shim/build python-shim/kvtier/_lib python-shim/*.egg-info

.PHONY: clean-cache
clean-cache: ## remove everything under KVTIER_CACHE that this Makefile put there
	rm -rf -- '$(KVTIER_CACHE)'/{target,target-loom,ccache,tools,venv,venv.stamp,bin,chart,chart-scratch,*.lock}
