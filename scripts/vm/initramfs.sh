#!/usr/bin/env bash
# initramfs.sh OUT TEST...: an initramfs that runs test programs, each given as NAME=FILE, with the host at the place where they look
# for it. Host, test programs and tools are the very files of this machine, with their libraries.
set -euo pipefail

out=$(realpath -m "$1")
shift
root=$PWD
tree=$(mktemp -d)
chmod 755 "$tree"
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree"/{bin,dev,proc,sys,tmp,run,tests,etc,usr/bin,var/cache} "$tree/$root/target/release"

# A program where it stands, or at another place, and the libraries that it needs.
add() {
	mkdir -p "$tree/$(dirname "$2")"
	cp -L "$1" "$tree/$2"
	chmod +w "$tree/$2"
	strip "$tree/$2" 2>/dev/null || true
	local library
	for library in $(ldd "$1" 2>/dev/null | grep -o '/[^ )]*' || true); do
		[ -e "$tree/$library" ] || { mkdir -p "$tree/$(dirname "$library")" && cp -L "$library" "$tree/$library"; }
	done
}

add "$(type -P busybox)" bin/busybox
# Tests want these as programs of their own; busybox is everything else.
for tool in true false sleep sh rm; do
	add "$(type -P "$tool")" "bin/$tool"
done
cp scripts/vm/init "$tree/init"
echo "$root" >"$tree/root-folder"
add target/release/eunomia-host "$root/target/release/eunomia-host"
ln -s "$root/target/release/eunomia-host" "$tree/usr/bin/eunomia-host"
for folder in target/plugins target/fixtures; do
	mkdir -p "$tree/$root/$folder"
	cp -a "$folder/." "$tree/$root/$folder/"
done
for test in "$@"; do
	add "${test#*=}" "tests/${test%%=*}"
done
(cd "$tree" && find . | cpio --quiet -o -H newc) >"$out"
