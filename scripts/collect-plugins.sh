#!/usr/bin/env bash
# Puts the shipped plugins, as cargo built them, into target/plugins: NAME.wasm, with NAME.toml where there is one. What
# has not changed is left alone, so that a host that watches the folder exchanges only what is new.
set -euo pipefail

mkdir -p target/plugins
place() {
	if ! cmp -s "$1" "$2"; then
		cp "$1" "$2.new"
		mv "$2.new" "$2"
	fi
}

for name in "$@"; do
	# Settings first: a plugin is loaded with those that are there.
	if [ -f "plugins/$name/$name.toml" ]; then
		place "plugins/$name/$name.toml" "target/plugins/$name.toml"
	fi
	place "target/wasm32-wasip2/plugin/${name//-/_}.wasm" "target/plugins/$name.wasm"
done
