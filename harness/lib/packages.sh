# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# All packages that have to be installed, grouped by what needs them. Names are those of Debian 12
# and 13.

declare -gA packages=(
	[fetch]="dpkg xz-utils debian-archive-keyring"
	[kernelorg]="ca-certificates curl"
	[build]="gcc make libc6-dev flex bison bc libelf-dev libssl-dev perl python3 rsync
		cpio kmod ccache"
	[x86_64]="qemu-system-x86 busybox-static"
	[arm64]="qemu-system-arm gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
	[style]="shellcheck perl python3 python3-ply python3-git codespell"
)

as_root() {
	if ((EUID)); then
		doit sudo "$@"
	else
		doit "$@"
	fi
}

# need GROUP...: install the packages that are missing. Silent and quick when none is.
need() {
	local group missing
	command -v dpkg-query >/dev/null || return 0	# not Debian: trust what is there
	missing=$(for group; do
			# shellcheck disable=SC2086 # a list of words
			printf '%s\n' ${packages[$group]}
		done | sort -u | while read -r p; do
			dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' ||
				echo "$p"
		done)
	[[ $missing ]] || return 0
	# shellcheck disable=SC2086
	locked "$GMEM_CACHE/apt.lock" install_packages $missing
}

install_packages() {
	local log=$GMEM_OUT/log/apt.log
	export DEBIAN_FRONTEND=noninteractive
	step "$log" "apt-get update" as_root apt-get update -q
	step "$log" "installing $*" \
		as_root apt-get install -q -y --no-install-recommends "$@"
}
