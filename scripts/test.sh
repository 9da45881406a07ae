#!/usr/bin/env bash
# Runs the tests, those of the host with the arguments given, and ends with a line that sums up what all test programs said.
set -euo pipefail

log=target/test.log
mkdir -p target
: >"$log"
status=0
run() {
	cargo test --release --no-fail-fast "$@" 2>&1 | tee -a "$log" || status=$?
}

# The host by itself: together with the plugins' dependencies, features would change and have wasmtime built once more.
run --package eunomia-host "$@"
run --workspace --exclude eunomia-host

sums=$(awk '/^test result:/ { passed += $4; failed += $6; ignored += $8; programs++ }
	END { printf "%d passed, %d failed, %d ignored, in %d test programs", passed, failed, ignored, programs }' "$log")
if [ "$(id -u)" != 0 ]; then
	sums="$sums; the tests of the running kernel need root and did nothing"
fi
if [ "$status" != 0 ]; then
	echo "make test: FAILED: $sums"
	exit "$status"
fi
echo "make test: ok: $sums"
