#!/usr/bin/env bash
# run.sh TEST...: runs test programs of this package on several kernels, each in a virtual machine under software emulation, and
# ends with a line that sums up what they said. See kernels.sh for the kernels, init for what happens inside.
#
# KERNELS="6.1 6.12" takes a part of them; FILTER is handed to the test programs.
set -euo pipefail

vm=target/vm
# Each machine's CPUs take turns in one thread. With threads of their own, emulators before QEMU 8.1 run breakpoints that are there no
# more when a kernel patches itself while another CPU passes, and the kernel panics; and two machines have two CPUs here anyway.
accel=tcg,thread=single
# Without the instructions that fill and copy memory byte by byte, which kernels prefer where they are and which take an emulator longest.
cpu=max,la57=off,-erms,-fsrm
# Boots to the end of all tests; a machine that hangs is ended by then.
longest_seconds=2000
at_once=2
memory_mib=3072
# The kernel's own list of security modules would leave out BPF on 5.10.
common="console=ttyS0 quiet panic=-1 mitigations=off lsm=lockdown,yama,apparmor,bpf"

# The rungs that must attach and be exact: said here, independently of what the host finds. All of these kernels have them all.
expected=fentry,kprobe,tp_btf,raw_tp,tp

# Kernels with full preemption interrupt BPF programs and meanwhile skip them, which the host has to account for.
may_skip() { [ "$1" != newest ] || echo EUNOMIA_MAY_SKIP=1; }

say() { printf '%s\n' "$*"; }

if ! command -v apt-get >/dev/null; then
	say "make test-vm: NOT RUN: its kernels are Debian's packages, fetched through apt-get, which this machine does not have"
	[ -z "${CI:-}" ] || exit 1
	exit 0
fi
scripts/vm/kernels.sh "$vm/kernels"
tests=()
cargo test --release --package eunomia-host --no-run $(printf -- '--test %s ' "$@") >"$vm/build.log" 2>&1 || {
	cat "$vm/build.log" >&2
	exit 1
}
while read -r name file; do
	tests+=("$name=$file")
done < <(sed -n 's/.*Executable tests\/\([a-z_]*\).* (\(.*\))$/\1 \2/p' "$vm/build.log")
[ ${#tests[@]} = $# ] || { say "error: ${#tests[@]} test programs were built of $#" >&2; exit 1; }
scripts/vm/initramfs.sh "$vm/initramfs" "${tests[@]}"

boot() { # NAME
	local kernel=$vm/kernels/$1
	{ cat "$vm/initramfs" && (cd "$kernel" && echo overlay.ko | cpio --quiet -o -H newc); } >"$vm/$1.initramfs"
	timeout --signal=KILL "$longest_seconds" qemu-system-x86_64 -machine q35 -accel "$accel" -cpu "$cpu" -smp 2 -m "$memory_mib" \
		-nodefaults -no-user-config -display none -serial "file:$vm/$1.log" -no-reboot -kernel "$kernel/vmlinuz" \
		-initrd "$vm/$1.initramfs" -append "$common EUNOMIA_EXPECT_HOOKS=$expected EUNOMIA_FILTER=${FILTER:-} EUNOMIA_EMULATED=1 $(may_skip "$1")" \
		</dev/null || true
	sed -i 's/\r$//' "$vm/$1.log"
	rm -f "$vm/$1.initramfs"
}

names=()
for name in 5.10 6.1 6.12 newest; do
	[[ " ${KERNELS:-$name} " = *" $name "* ]] || continue
	[ -e "$vm/kernels/$name/vmlinuz" ] || { say "kernel $name: not there, nothing tested"; continue; }
	names+=("$name")
done
for name in "${names[@]}"; do
	[ "$(jobs -rp | wc -l)" -lt "$at_once" ] || wait -n
	{ begin=$SECONDS && boot "$name" && echo "vm: seconds $((SECONDS - begin))" >>"$vm/$name.log"; } &
done
wait

passed=0 failed=0 booted=()
: >"$vm/covered.tsv"
for name in "${names[@]}"; do
	release=$(sed -n 's/^vm: kernel \([0-9]*\.[0-9]*\.[0-9]*\).*/\1/p' "$vm/$name.log")
	say "kernel ${release:-$name that did not boot}: $(sed -n 's/^vm: seconds //p' "$vm/$name.log") s"
	if ! grep -q '^vm: end' "$vm/$name.log"; then
		failed=$((failed + 1))
		say "  it did not come to an end; the last lines of $vm/$name.log:"
		tail -n 20 "$vm/$name.log" | sed 's/^/  | /'
	fi
	sed -n 's/^vm: \(program\|kernel says\)/  \1/p' "$vm/$name.log"
	for program in "$@"; do
		grep -q "^vm: program $program status 0 " "$vm/$name.log" || failed=$((failed + 1))
	done
	sed -n '/^failures:$/,/^test result/p' "$vm/$name.log" | cut -c 1-400 | sed 's/^/  | /'
	passed=$((passed + $(awk '/^test result:/ { sum += $4 } END { print sum + 0 }' "$vm/$name.log")))
	failed=$((failed + $(awk '/^test result:/ { sum += $6 } END { print sum + 0 }' "$vm/$name.log")))
	booted+=("${release:-$name}")
	sed -n "s/^vm: covered: /${release%.*}\t/p" "$vm/$name.log" >>"$vm/covered.tsv"
done
verdict="$passed passed, $failed failed, on ${#booted[@]} kernels: ${booted[*]}"
[ "$failed" = 0 ] && [ "$passed" != 0 ] || { say "make test-vm: FAILED: $verdict"; exit 1; }
# With all of them tested, the page that shows it is written anew.
if [ -z "${KERNELS:-}${FILTER:-}" ] && [ ${#booted[@]} = 4 ]; then
	UPDATE_DOCS=1 EUNOMIA_COVERED=$(realpath "$vm/covered.tsv") \
		cargo test --release --quiet --package eunomia-host --test docs -- sources_page >/dev/null
fi
say "make test-vm: ok: $verdict"
