# Targets for development; `make` alone lists them. Each target first installs missing prerequisites (scripts/setup.sh).
#
# Everything is built in one profile and with `--workspace`: cargo builds a dependency with the features that all chosen packages
# request, so a build of one package alone would compile wasmtime a second time. The resulting host has failpoints, which do
# nothing unless the environment names one. Releases are built with `cargo build --release -p sandmill`.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Cargo uses all cores by itself, and packages are installed one at a time.
.NOTPARALLEL:
.PHONY: help setup demo test test-fast test-all test-postgres test-newest newest-postgres lint bench bench-neighbours bench-density bench-detach bench-failing bench-blocked bench-swaps soak plugins plugins-js plugins-py drivers guests bindings

host := cargo build --workspace --bin sandmill
sandmill := $(or $(CARGO_TARGET_DIR),target)/debug/sandmill
# The release build of the host, which the bench measures.
release := cargo build --release -p sandmill -p sandmill-bench
bench := $(or $(CARGO_TARGET_DIR),target)/release/sandmill-bench

# Each crate below these two directories becomes target/plugins/NAME.wasm, where the tests look for it.
example_crates := $(patsubst %/Cargo.toml,%,$(wildcard example-plugins/*/Cargo.toml))
guest_crates := $(patsubst %/Cargo.toml,%,$(wildcard tests/guests/*/Cargo.toml))
components = $(patsubst %,target/plugins/%.wasm,$(notdir $1))
demo_plugins := $(addprefix target/demo/plugins/,cart-summary.wasm plane-log.wasm route-performance.wasm)

help: ## lists the targets
	@sed -n 's/^\([a-z][a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | while IFS='	' read -r name what; do \
	  printf 'make %-16s  %s\n' "$$name" "$$what"; done

setup: setup-cc setup-wasm setup-postgres setup-lint ## installs the missing prerequisites of the other targets
	@echo "Nothing is missing."

demo: setup-postgres $(demo_plugins) ## runs three plugins on a private PostgreSQL for 20 s, with a live view: events of a shop and of 20,000 flights
	@echo "Running the demo on a private PostgreSQL"
	@$(host)
	@$(sandmill) demo --plugins target/demo/plugins --events example-plugins/data/flights-20000.ndjson.gz

# The unit tests, and the quick parts of the suite that need no plugins: 76 s on two busy cores.
fast_tests := tidy:: in_flight:: sql:: plans:: store:: sources:: docs::names docs::service docs::each
test-fast: setup-cc setup-postgres ## runs the tests that need no plugins; under two minutes after a build
	@echo "Running unit tests and quick parts of the suite"
	@cargo test --workspace --lib --no-fail-fast
	@cargo test --workspace --test suite -- $(fast_tests)

test: setup-postgres plugins guests ## runs all tests except those in JavaScript and Python, starting with the example plugins'
	@echo "Running all tests"
	@cd example-plugins && cargo test --quiet
	@cargo test --workspace --no-fail-fast

# With this variable, a test that lacks its JavaScript or Python component or driver fails instead of
# being skipped.
test-all: export TEST_ALL = 1
test-all: plugins-js plugins-py drivers test ## also runs the tests in JavaScript and Python, whose tools need a network the first time

# The supported versions, and the tests to run on each: all by default. Fewer: `make test-postgres ON=18.6.0 TESTS=store::`.
ON := 14.23.0 15.19.0 16.15.0 17.11.0 18.6.0
TESTS :=
test-postgres: plugins guests ## runs the suite on each supported version of PostgreSQL, which it downloads; ten minutes each
	@for version in $(ON); do \
	  programs=$$(scripts/postgres.sh $$version) || exit; \
	  echo "Running tests on PostgreSQL $$version"; \
	  SANDMILL_PG_BIN=$$programs cargo test --workspace --test suite -- $(TESTS) || exit; \
	done

# The tests that depend most on the server: statements and their plans, migrations, rights, cursors,
# and crashes. They take three minutes.
newest := $(lastword $(ON))
database_tests := store:: sources:: sql:: plans:: rights:: in_flight:: anchors:: ownership:: contention:: crashes:: kills::
test-newest: plugins guests newest-postgres ## runs the database-dependent tests on the newest PostgreSQL
	@echo "Running tests on PostgreSQL $(newest)"
	@SANDMILL_PG_BIN=$$(scripts/postgres.sh $(newest)) cargo test --workspace --test suite -- $(database_tests)

newest-postgres: ## downloads the newest supported PostgreSQL for test-newest, if it is missing
	@scripts/postgres.sh $(newest) >/dev/null

# setup-deny installs cargo-deny into this folder.
lint: export PATH := $(PATH):$(abspath $(or $(CARGO_TARGET_DIR),target))/tools/bin
lint: setup-cc setup-lint ## checks formatting, clippy warnings, documentation and, if cargo-deny is installed, the dependencies
	@echo "Checking formatting, warnings and documentation"
	@for workspace in . example-plugins tests/guests; do \
	  (cd $$workspace && cargo fmt --all --check && cargo clippy --workspace --all-targets -- -D warnings) || exit; \
	done
	@RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items --quiet
	@scripts/deny.sh

bench: setup-cc setup-postgres plugins ## compares Sandmill with native code, a hand-written loop and the bare database; ten minutes
	@$(release)
	@$(bench) --json target/bench.json

bench-neighbours: setup-cc setup-postgres guests ## measures fifty quiet tenants beside each kind of greedy tenant; ten minutes
	@$(release)
	@$(bench) neighbours shares --rounds 2 --json target/neighbours.json

bench-detach: setup-cc setup-postgres plugins ## measures the effect of one overloaded tenant on the others; three minutes
	@$(release)
	@$(bench) detach --json target/detach.json

bench-density: setup-cc setup-postgres plugins ## measures the same events in one to ten thousand tenants; five minutes
	@$(release)
	@$(bench) density --rounds 3 --json target/density.json

bench-blocked: setup-cc setup-postgres guests ## measures the cost of sixty thousand blocked lanes of one tenant; two minutes
	@$(release)
	@$(bench) blocked --plugins target/plugins --json target/blocked.json

bench-failing: setup-cc setup-postgres guests ## measures ninety tenants beside ten that fail, each in its own way; five minutes
	@$(release)
	@$(bench) failing --plugins target/plugins --json target/failing.json

bench-swaps: setup-cc setup-postgres guests ## measures hot swaps of a plugin under load; five minutes
	@$(release)
	@$(bench) swaps hundred --rounds 3 --plugins target/plugins --json target/swaps.json

soak: setup-cc setup-postgres guests ## runs changing greedy tenants for half an hour, and compares the results with the log
	@$(release)
	@$(bench) soak --json target/soak.json

plugins: $(call components,$(example_crates)) ## builds the example plugins into target/plugins
	@echo "Example plugins in target/plugins: $(notdir $(example_crates))"

plugins-js: $(call components,$(wildcard example-plugins/*-js)) ## builds the example plugins in JavaScript; needs node and npm
plugins-py: $(call components,$(wildcard example-plugins/*-py)) ## builds the example plugins in Python; needs python3 with venv and pip

drivers: target/drivers/node.done target/drivers/python.done ## installs the database drivers for the documentation's examples; needs node, npm and python3 with venv

target/drivers/node.done: tests/drivers/package.json tests/drivers/package-lock.json
	@mkdir -p $(@D)
	@cp $^ $(@D)
	@cd $(@D) && npm ci --silent --no-audit --no-fund
	@touch $@

target/drivers/python.done: tests/drivers/requirements.txt
	@mkdir -p $(@D)
	@python3 -m venv --clear $(@D)/python
	@$(@D)/python/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# Built without optimisation: it runs once, for a second.
bindings: setup-cc ## writes the guest SDK's bindings from the contract in wit/
	@cargo run --quiet --config 'profile.dev.package."*".opt-level = 0' -p sandmill-bindings

guests: $(call components,$(guest_crates)) ## builds the test guests, many of which misbehave, into target/plugins
	@echo "Test guests in target/plugins: $(notdir $(guest_crates))"

setup-%:
	@scripts/setup.sh $*

# The sources of every component, in addition to its own crate and its workspace's manifest.
contract := $(shell find wit guest-sdk/rust/src -type f) guest-sdk/rust/Cargo.toml
contract += host/src/toolchain.rs $(wildcard host/src/toolchain/*.rs)

define component
target/plugins/$(notdir $1).wasm: $(shell find $1 -type f) $(wildcard $(dir $1)Cargo.*) $(contract) | setup-cc setup-wasm
	@$(host)
	@$(sandmill) plugin build $1 -o $$@
endef
$(foreach crate,$(example_crates) $(guest_crates),$(eval $(call component,$(crate))))

define script
target/plugins/$(notdir $1).wasm: $(wildcard $1/plugin.*) wit/processor.wit $2 \
  $(shell find host/src/toolchain/script* -type f) | setup-cc
	@$(host)
	@$(sandmill) plugin build $1 -o $$@
endef
$(foreach folder,$(wildcard example-plugins/*-js),$(eval $(call script,$(folder),guest-sdk/js/sandmill.js)))
$(foreach folder,$(wildcard example-plugins/*-py),$(eval $(call script,$(folder),guest-sdk/python/sandmill.py)))

# These are built from the source of `scripted`.
$(call components,$(wildcard tests/guests/scripted-*)): $(shell find tests/guests/scripted -type f)

target/plugins/hostile.wasm: tests/guests/wasi.wit

target/demo/plugins/%.wasm: target/plugins/%.wasm
	@mkdir -p $(@D)
	@cp $< $@
