#!/usr/bin/env bash
# bench.sh NAME: builds a bench, and says where it is, so that it can be run as root where building must not.
set -euo pipefail

cargo bench --bench "$1" --no-run --message-format=json |
	sed -n 's/.*"kind":\["bench"\].*"executable":"\([^"]*\)".*/\1/p' | tail -1
