#!/usr/bin/env bash
# Runs `cargo test` with the arguments given, and ends with a line that sums up what all the test programs said.
set -euo pipefail

log=target/test.log
mkdir -p target
status=0
cargo test --release --workspace --no-fail-fast "$@" 2>&1 | tee "$log" || status=$?

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
