# What the README's commands call. `make run` and `make test` work on a machine with nothing but git, make and the Rust
# toolchain: they install what is missing.

HOST := target/release/eunomia-host
PLUGINS := $(patsubst plugins/%/Cargo.toml,%,$(wildcard plugins/*/Cargo.toml))
# Plugins that only tests run.
FIXTURES := $(patsubst tests/fixtures/%/Cargo.toml,%,$(wildcard tests/fixtures/*/Cargo.toml))
C_PLUGIN := target/fixtures/c-plugin.wasm
TESTS := $(notdir $(basename $(wildcard tests/*.rs)) $(patsubst %/main.rs,%,$(wildcard tests/*/main.rs)))
# Those that start thousands of processes on the running kernel.
STORMS := containers files kernel seccomp source sources
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: build
build: setup ## the host, and every shipped plugin with its settings beside it
	cargo build --release
	cargo build --profile plugin --target wasm32-wasip2 $(addprefix -p ,$(PLUGINS))
	@scripts/collect-plugins.sh plugins target/plugins $(PLUGINS)

.PHONY: run
run: build ## the host with the shipped plugins, until Ctrl-C
	@exec $(SUDO) $(HOST) --plugin-dir target/plugins

.PHONY: test
test: build fixtures lint ## every test; those of the running kernel need root
	@RUST_TEST_THREADS=1 scripts/test.sh

.PHONY: test-quick
test-quick: build fixtures ## the tests that leave the machine in peace
	@scripts/test.sh --lib --bins $(addprefix --test ,$(filter-out $(STORMS),$(TESTS)))

.PHONY: bench
bench: build fixtures ## what things cost, as ratios
	cargo bench --bench containers

.PHONY: lint
lint: setup ## formatting and clippy
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings

.PHONY: fmt
fmt: ## formats the Rust sources
	cargo fmt --all

.PHONY: setup setup-test
setup: ## installs what building needs and is missing
	@scripts/setup.sh build
setup-test: ## installs what testing needs besides
	@scripts/setup.sh test

.PHONY: fixtures
fixtures: setup-test $(C_PLUGIN)
	cargo build --profile plugin --target wasm32-wasip2 $(addprefix -p ,$(FIXTURES))
	@scripts/collect-plugins.sh tests/fixtures target/fixtures $(FIXTURES)

$(C_PLUGIN): $(wildcard $(addprefix tests/fixtures/c-plugin/,*.c *.sh wit/*.wit tool/Cargo.* tool/src/*.rs) wit/*.wit) | setup-test
	tests/fixtures/c-plugin/build.sh $@

.PHONY: help
help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20
