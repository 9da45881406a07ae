#!/usr/bin/env bash
# collect-plugins.sh FROM TO NAME...: puts plugins, as cargo built them, into the folder TO: NAME.wasm, with NAME.toml where
# FROM/NAME has one. What has not changed is left alone, so that a host that watches the folder exchanges only what is new.
set -euo pipefail

from=$1 to=$2
shift 2
mkdir -p "$to"
place() {
	if ! cmp -s "$1" "$2"; then
		cp "$1" "$2.new"
		mv "$2.new" "$2"
	fi
}

for name in "$@"; do
	# Settings first: a plugin is loaded with those that are there.
	if [ -f "$from/$name/$name.toml" ]; then
		place "$from/$name/$name.toml" "$to/$name.toml"
	fi
	place "target/wasm32-wasip2/plugin/${name//-/_}.wasm" "$to/$name.wasm"
done
