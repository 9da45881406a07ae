#!/usr/bin/env bash
# Installs what building (`build`) or also testing (`test`) needs and this machine lacks: as root with apt or dnf, else it
# prints the commands and fails. Without anything to install it is quick and uses no network.
set -euo pipefail

purpose=${1:-build}
# The compilers that build.rs looks for, newest first; 14 is the oldest that compiles the BPF programs.
versions="19 18 17 16 15 14"
apt=() dnf=()

has() { command -v "$1" >/dev/null 2>&1; }
fail() { printf 'error: %s\n' "$1" >&2; shift; [ $# = 0 ] || printf '%s\n' "$@" >&2; exit 1; }
headers() { has cc && printf '#include <%s>\n' "$@" | cc -E -x c - >/dev/null 2>&1; }

find_clang() {
	local name
	for name in ${CLANG:-clang-19 clang clang-18 clang-17 clang-16 clang-15 clang-14}; do
		if has "$name"; then echo "$name" && return; fi
	done
	return 1
}

# Whether a plugin in C can be made: compiler, linker, C library and the compiler's run time for wasm32.
makes_wasm() {
	[ -n "${WASI_SDK_PATH:-}" ] && return
	local compiler out status=0
	compiler=$(find_clang) || return
	out=$(mktemp)
	printf '#include <stdio.h>\nvoid f(void) { puts(""); }\n' |
		"$compiler" --target=wasm32-wasi -mexec-model=reactor -x c - -o "$out" 2>/dev/null || status=1
	rm -f "$out"
	return "$status"
}

# CLANG and VERSION stand for what this machine's packages offer.
has cc || { apt+=(gcc libc6-dev) dnf+=(gcc glibc-devel); }
has make || { apt+=(make) dnf+=(make); }
has pkg-config || { apt+=(pkg-config) dnf+=(pkgconf-pkg-config); }
headers libelf.h gelf.h || { apt+=(libelf-dev) dnf+=(elfutils-libelf-devel); }
headers zlib.h || { apt+=(zlib1g-dev) dnf+=(zlib-devel); }
find_clang >/dev/null || { apt+=(CLANG) dnf+=(clang); }
if [ "$purpose" = test ] && ! makes_wasm; then
	has apt-get || fail "the plugin in C, one of the tests, needs a C compiler for WebAssembly with its C library:" \
		"unpack the WASI SDK (https://github.com/WebAssembly/wasi-sdk) and set WASI_SDK_PATH to its folder"
	apt+=(CLANG lld-VERSION wasi-libc libclang-rt-VERSION-dev-wasm32)
fi
# Real container engines, for the tests that need root; they run on sockets and folders of the tests' own.
if [ "$purpose" = test ] && [ "$(id -u)" = 0 ]; then
	has dockerd || { apt+=(docker.io) dnf+=(moby-engine); }
	# Some releases have the client in a package of its own.
	has docker || { apt+=(docker.io) dnf+=(docker-cli); ! apt-cache show docker-cli >/dev/null 2>&1 || apt+=(docker-cli); }
	{ has containerd && has ctr; } || { apt+=(containerd) dnf+=(containerd); }
	has runc || { apt+=(runc) dnf+=(runc); }
	has podman || { apt+=(podman) dnf+=(podman); }
	{ has busybox && ! ldd "$(command -v busybox)" >/dev/null 2>&1; } || { apt+=(busybox-static) dnf+=(busybox); }
fi

newest() {
	local version
	for version in $versions; do
		if apt-cache show "clang-$version" >/dev/null 2>&1; then echo "$version" && return; fi
	done
	return 1
}

with_apt() {
	export DEBIAN_FRONTEND=noninteractive
	local version install=(apt-get install -y --no-install-recommends)
	if ! version=$(newest) && [ "$(id -u)" = 0 ]; then
		apt-get update -qq
		version=$(newest) || fail "no clang of version 14 or newer is among this machine's packages"
	fi
	apt=("${apt[@]/CLANG/clang-${version:-19}}")
	apt=("${apt[@]/VERSION/${version:-19}}")
	as_root apt-get update "${install[*]} ${apt[*]}"
	echo "installing ${apt[*]}"
	# The lists of packages may be old: then the second attempt has new ones.
	"${install[@]}" -qq "${apt[@]}" >/dev/null || { apt-get update -qq && "${install[@]}" -qq "${apt[@]}" >/dev/null; }
}

with_dnf() {
	as_root "dnf install -y ${dnf[*]}"
	echo "installing ${dnf[*]}"
	dnf install -y -q "${dnf[@]}"
}

# Says what root should do, where this is not root.
as_root() {
	[ "$(id -u)" = 0 ] || fail "packages are missing. Install them, then run make again:" "${@/#/  sudo }"
}

if [ ${#apt[@]} -gt 0 ]; then
	if has apt-get; then
		with_apt
	elif has dnf; then
		with_dnf
	else
		fail "these are missing, and neither apt nor dnf is here to install them:" "  ${apt[*]/CLANG/clang (14 or newer)}"
	fi
fi

has cargo || fail "there is no Rust toolchain here: https://rustup.rs tells how to install it"
if [ ! -d "$(rustc --print target-libdir --target wasm32-wasip2)" ]; then
	has rustup || fail "this Rust toolchain lacks the target wasm32-wasip2, which plugins are compiled for" \
		"install Rust by rustup (https://rustup.rs), or your system's package with the standard library of that target"
	rustup target add wasm32-wasip2
fi
