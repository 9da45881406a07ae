# What the README's commands call. `make run` and `make test` work on a machine with nothing but git, make and the Rust
# toolchain: they install what is missing.

HOST := target/release/eunomia-host
PLUGINS := $(patsubst plugins/%/Cargo.toml,%,$(wildcard plugins/*/Cargo.toml))
# Plugins that only tests run.
FIXTURES := $(patsubst tests/fixtures/%/Cargo.toml,%,$(wildcard tests/fixtures/*/Cargo.toml))
C_PLUGIN := target/fixtures/c-plugin.wasm
CALLS := target/fixtures/calls
TESTS := $(notdir $(basename $(wildcard tests/*.rs)) $(patsubst %/main.rs,%,$(wildcard tests/*/main.rs)))
# Those for which it makes a difference which kernel it is.
VM_TESTS := files kernel narrow power seccomp source sources
# Those that start thousands of processes on the running kernel.
STORMS := adversity containers metrics running scale $(VM_TESTS)
STATIC := target/static/eunomia-host
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
test: build fixtures lint ## every test, on this kernel and on those of test-vm; those that look at this one need root
	@RUST_TEST_THREADS=1 scripts/test.sh
	@$(MAKE) --no-print-directory test-vm

.PHONY: test-vm
test-vm: build fixtures setup-vm ## the tests of the running kernel on other kernels, in virtual machines
	@scripts/vm/run.sh $(VM_TESTS)

.PHONY: test-scale
test-scale: build fixtures ## a thousand plugins, of which a hundred misbehave, for five minutes
	EUNOMIA_SCALE_SECONDS=300 cargo test --release --test scale -- --nocapture

.PHONY: test-quick
test-quick: build fixtures ## the tests that leave the machine in peace
	@scripts/test.sh --lib --bins $(addprefix --test ,$(filter-out $(STORMS),$(TESTS)))

.PHONY: fuzz
fuzz: setup-fuzz ## cargo-fuzz, for FUZZ_SECONDS (60) each: the decoder, the settings, the compiling of plugins
	@scripts/fuzz.sh $(or $(FUZZ_SECONDS),60)

.PHONY: bench
bench: build fixtures ## what things cost, as ratios
	cargo bench --bench events --bench containers
	@# Loads BPF programs, which needs root.
	$(SUDO) $$(scripts/bench.sh storm)

.PHONY: lint
lint: setup ## formatting and clippy
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings

.PHONY: fmt
fmt: ## formats the Rust sources
	cargo fmt --all

.PHONY: setup setup-test setup-vm setup-fuzz
setup: ## installs what building needs and is missing
	@scripts/setup.sh build
setup-test: ## installs what testing needs besides
	@scripts/setup.sh test
setup-vm: ## installs what virtual machines need besides
	@scripts/setup.sh vm
setup-fuzz: setup ## installs cargo-fuzz
	@command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz

.PHONY: fixtures
fixtures: setup-test $(C_PLUGIN) $(CALLS)
	cargo build --profile plugin --target wasm32-wasip2 $(addprefix -p ,$(FIXTURES))
	@scripts/collect-plugins.sh tests/fixtures target/fixtures $(FIXTURES)

$(C_PLUGIN): $(wildcard $(addprefix tests/fixtures/c-plugin/,*.c *.sh wit/*.wit tool/Cargo.* tool/src/*.rs) wit/*.wit) | setup-test
	tests/fixtures/c-plugin/build.sh $@

# Where its data stands below 4 GiB, which 32-bit calls need.
$(CALLS): tests/fixtures/calls/calls.c | setup-test
	@mkdir -p $(@D)
	cc -O1 -Wall -Werror -no-pie -pthread -o $@ $<

.PHONY: static
static: build ## the host without shared libraries, as target/static/eunomia-host
	@# Only its own crate and libbpf are compiled once more; then the usual binary is put back.
	LIBBPF_SYS_LIBRARY_PATH=$$(dirname "$$(cc -print-file-name=libelf.a)") \
		cargo rustc --release --features static --bin eunomia-host -- -C target-feature=+crt-static
	@mkdir -p $(dir $(STATIC))
	cp $(HOST) $(STATIC)
	cargo build --release

.PHONY: help
help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20
