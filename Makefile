# What the README's commands call. `make run` and `make test` work on a machine with nothing but git, make and the Rust
# toolchain: they install what is missing.

HOST := target/release/eunomia-host
PLUGINS := $(patsubst plugins/%/Cargo.toml,%,$(wildcard plugins/*/Cargo.toml))
C_PLUGIN := target/fixtures/c-plugin.wasm
# Tests of the running kernel are called kernel*: they start thousands of processes.
QUICK_TESTS := $(patsubst tests/%.rs,--test %,$(filter-out tests/kernel%,$(wildcard tests/*.rs)))
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: build
build: setup ## the host, and every shipped plugin with its settings beside it
	cargo build --release
	cargo build --profile plugin --target wasm32-wasip2 $(addprefix -p ,$(PLUGINS))
	@scripts/collect-plugins.sh $(PLUGINS)

.PHONY: run
run: build ## the host with the shipped plugins, until Ctrl-C
	@exec $(SUDO) $(HOST) --plugin-dir target/plugins

.PHONY: test
test: build setup-test $(C_PLUGIN) lint ## every test; those of the running kernel need root
	@RUST_TEST_THREADS=1 scripts/test.sh

.PHONY: test-quick
test-quick: build setup-test $(C_PLUGIN) ## the tests that leave the machine in peace
	@scripts/test.sh --lib --bins $(QUICK_TESTS)

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

$(C_PLUGIN): $(wildcard tests/fixtures/c-plugin/* tests/fixtures/c-plugin/*/*.* wit/*.wit) | setup-test
	tests/fixtures/c-plugin/build.sh $@

.PHONY: help
help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20
