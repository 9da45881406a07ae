#!/usr/bin/env bash
# kernels.sh FOLDER: fetches Debian's kernels for virtual machines through apt, from the mirror that this machine uses, and
# unpacks them into FOLDER/NAME: vmlinuz, and the module overlay. Its own lists and cache leave the machine's apt alone.
# What is there already is kept. Ends with an error when one of those in REQUIRED cannot be had.
set -euo pipefail

folder=$(realpath -m "$1")
# How many days a fetched kernel is used before a newer build of it is looked for.
keep_days=30

# NAME REQUIRED SUITE PATTERN: the newest package whose name matches. The suites of security updates have the newest builds.
kernels='
5.10   optional bullseye-security ^linux-image-5\.10\.0-[0-9]+-cloud-amd64$
6.1    required bookworm-security ^linux-image-6\.1\.0-[0-9]+-cloud-amd64$
6.12   required trixie            ^linux-image-6\.12\.[0-9]+\+deb13-cloud-amd64$
newest optional sid               ^linux-binary-[0-9.]+\+deb[0-9]+-cloud-amd64$
'

say() { printf '%s\n' "$*" >&2; }

# The mirror of a suite: the host that this machine's apt already uses, for the main archive or for security updates.
site_of() {
	apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' 'Origin: Debian' |
		awk -v security="${1##*-}" '$2 ~ /-security$/ { updates = $1 } $2 !~ /-/ { archive = $1 }
			END { print security == "security" ? updates : archive }'
}

fetch() { # NAME SUITE PATTERN
	local name=$1 suite=$2 pattern=$3 state=$folder/apt/$2 site package packages
	site=$(site_of "$suite")
	[ -n "$site" ] || { say "this machine's apt knows no Debian mirror (apt-get update first?)"; return 1; }
	mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $suite main" >"$state/sources.list"
	local apt=(-qq -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=/dev/null
		-o Dir::State="$state" -o Dir::State::Lists="$state/lists" -o Dir::Cache="$state/cache"
		-o Dir::State::status=/dev/null -o APT::Sandbox::User=root)
	if [ ! -e "$state/updated" ]; then
		apt-get "${apt[@]}" update >&2 || return 1
		touch "$state/updated"
	fi
	package=$(apt-cache "${apt[@]}" search --names-only "$pattern" | awk '{ print $1 }' | sort -V | tail -n 1)
	[ -n "$package" ] || { say "no package of $suite is named like $pattern"; return 1; }
	packages=("$package")
	# Where kernel and modules are packages of their own.
	[[ $package != linux-binary-* ]] || packages+=("linux-modules-${package#linux-binary-}")
	rm -rf "$folder/$name.new"
	mkdir -p "$folder/$name.new/unpacked"
	(cd "$folder/$name.new" && apt-get "${apt[@]}" download "${packages[@]}" >&2) || return 1
	for package in "$folder/$name.new"/*.deb; do
		dpkg -x "$package" "$folder/$name.new/unpacked"
	done
	find "$folder/$name.new/unpacked" -name 'vmlinuz*' -type f -exec cp {} "$folder/$name.new/vmlinuz" \;
	find "$folder/$name.new/unpacked" -name 'overlay.ko*' -type f -exec cp {} "$folder/$name.new/" \;
	case $(echo "$folder/$name.new"/overlay.ko*) in
	*.xz) xz -d "$folder/$name.new"/overlay.ko.xz ;;
	*.zst) zstd -qd --rm "$folder/$name.new"/overlay.ko.zst ;;
	esac
	rm -rf "$folder/$name.new/unpacked" "$folder/$name.new"/*.deb
	[ -s "$folder/$name.new/vmlinuz" ] || { say "$package holds no kernel"; return 1; }
	rm -rf "${folder:?}/$name"
	mv "$folder/$name.new" "$folder/$name"
}

mkdir -p "$folder"
status=0
while read -r name need suite pattern; do
	[ -n "$name" ] || continue
	if [ -n "$(find "$folder/$name/vmlinuz" -mtime -"$keep_days" 2>/dev/null)" ]; then
		continue
	fi
	if fetch "$name" "$suite" "$pattern"; then
		touch "$folder/$name/vmlinuz"
	elif [ -s "$folder/$name/vmlinuz" ]; then
		say "kernel $name: no newer one could be had; the one that is here is used"
	elif [ "$need" = required ]; then
		say "error: kernel $name cannot be had from the suite $suite, and the tests need it"
		status=1
	else
		say "kernel $name cannot be had from the suite $suite: nothing is tested on it"
	fi
done <<<"$kernels"
rm -rf "$folder/apt"/*/updated
exit "$status"
