# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Make the reference VMM and its guest, ready to be copied into a machine: for ./gmem demo and
# for the test of the VMM. This needs packages, base, series, tree, kernel, guest, selftests.
#
#   out/vmm/bin/gmem-vmm      the VMM, built against the headers of our kernel
#   out/vmm/bin/payload       a guest without a Linux, that does nothing but convert
#   out/vmm/bin/flip          another one, that has single pages of a unit converted
#   out/vmm/guest/bzImage     the guest's kernel: unpatched, as small as it can be
#   out/vmm/guest/demo        initramfs: init, fill, stress-ng with its libraries
#   out/vmm/guest/test        initramfs: init and fill
#   out/vmm/guest/shared      the same, for a guest whose memory is all shared

use guest kernel packages selftests tree

packages[demo]="stress-ng"

vmm_out=$GMEM_OUT/vmm
# The VMM needs this on the boot line of its host.
vmm_append=kvm.gmem_in_place_conversion=1

# vmm_ready: make all of these files current. Two tests of the VMM may do so at once, and one of
# them may be copying a file that the other one makes: hence the lock, and put().
vmm_ready() {
	need demo
	guest_kernel && vmm_programs || return
	[[ ! $GMEM_DRY ]] || return 0
	locked "$vmm_out/guest.lock" guest_images
}

guest_images() {
	guest_initramfs test "" && guest_initramfs demo "$(command -v stress-ng)" &&
		guest_initramfs shared ""
}

# put FILE TO: copy FILE to TO. A reader of TO gets all of the old file or all of the new one.
put() {
	cp "$1" "$2.$BASHPID" && mv "$2.$BASHPID" "$2"
}

# vmm_programs: make the VMM and the programs that it runs, without a Linux for the guest.
vmm_programs() {
	need build
	locked "$vmm_out.lock" vmm_build
}

# Make the guest's Linux, which is the unpatched base: it need not know of guest_memfd, and work on
# the patches never rebuilds it. Its configuration stands alone on top of tinyconfig, hence the
# fragments() that kernel_build() sees here.
guest_kernel() {
	local built
	tree_ready vanilla || return
	# shellcheck disable=SC2317 # kernel_build() calls them
	built=$(
		fragments() { echo "$GMEM_TOP/harness/configs/guest.config"; }
		check_variant() { :; }
		kernel_build x86_64 guest vanilla >&2 || exit
		echo "$kernel"
	) || return
	[[ ! $GMEM_DRY ]] || return 0
	mkdir -p "$vmm_out/guest"
	put "$built" "$vmm_out/guest/bzImage"
}

# Build the VMM with the linux/kvm.h of our tree: the distribution's may not know guest_memfd.
vmm_build() {
	local make=(make -C "$GMEM_TOP/vmm" O="$vmm_out/bin")
	tree_ready "" || return
	kernel_env x86_64
	locked "$GMEM_OUT/selftests-x86_64.lock" selftest_headers || return
	make+=(KHDR="$tree/build-headers-x86_64/usr/include")
	[[ $GMEM_DRY ]] || ! "${make[@]}" -q >/dev/null 2>&1 || return 0
	step "$GMEM_OUT/log/vmm.log" "building the VMM" "${make[@]}"
}

# guest_initramfs NAME PROGRAM: make an initramfs, with PROGRAM if that's not empty. /programs lists
# what the guest does, a line each; its init stops at the first line that fails.
guest_initramfs() {
	local image=$vmm_out/guest/$1 program=$2 root=$vmm_out/guest/root file
	rm -rf "$root"
	mkdir -p "$root/lib64" || return
	cp "$vmm_out/bin/init" "$vmm_out/bin/fill" "$root/" || return
	case $1 in
	shared) echo "/fill memory" ;;
	*) printf '%s\n' "/fill direct" "hot-add" "/fill program" ;;
	esac >"$root/programs"
	if [[ $program ]]; then
		# An ordinary program of the distribution, with the libraries it asks for.
		cp "$program" "$root/stress-ng" || return
		while read -r file; do
			mkdir -p "$root${file%/*}" && cp -L "$file" "$root$file" || return
		done < <(ldd "$program" | grep -o '/[^ ]*')
		printf '%s\n' "echo stress-ng --vm --verify, in a quarter of it ..." \
			"/stress-ng --quiet --vm 1 --vm-bytes 25% --vm-method rand-set --verify --vm-ops 1" \
			"echo ... found nothing wrong" >>"$root/programs"
	fi
	archive "$root" "$root.cpio" && mv "$root.cpio" "$image" && rm -rf "$root"
}
