#!/usr/bin/env bash
# fuzz.sh SECONDS: runs each target of fuzz/ for so long, beginning with what is in fuzz/corpus, which stays as it is. What it finds is
# left in fuzz/artifacts.
set -euo pipefail

seconds=$1
target=target/fuzz
for name in decoder settings plugin; do
	mkdir -p "$target/corpus/$name"
	# Without a sanitizer, which needs a nightly toolchain: panics are what is looked for.
	cargo fuzz run --sanitizer none --target-dir "$target" --fuzz-dir fuzz "$name" "$target/corpus/$name" "fuzz/corpus/$name" -- \
		-max_total_time="$seconds" -max_len=65536 -rss_limit_mb=4096 -timeout=60 -print_final_stats=1
done
echo "make fuzz: ok: nothing found in $seconds s each"
