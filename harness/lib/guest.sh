# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Make the machine's user space: an initramfs of busybox and our init, and one more archive per run
# with the command and its files (the kernel unpacks them one after the other).

use base packages

# guest_base ARCH: make the archive that every run shares. Prints the archive's path.
guest_base() {
	local dir=$GMEM_OUT/guest/$1
	locked "$dir.lock" guest_base_locked "$1" "$dir" >&2 || return
	echo "$dir/base.cpio"
}

guest_base_locked() {
	local arch=$1 dir=$2 busybox state root=$2/root
	busybox=$(guest_busybox "$arch") || return
	# The archive is made with -n as well: it is small, and the printed lines refer to it.
	state=$(cat "$GMEM_TOP/harness/guest/init.c" "$busybox" 2>/dev/null | hash_of)
	[[ $(cat "$dir/state" 2>/dev/null) != "$state" ]] || return 0
	need build "$arch"
	rm -rf "$dir"
	mkdir -p "$root"/{bin,dev,proc,sys,run,tmp,root,etc,gmem,lib} || return
	chmod 1777 "$root/tmp"
	# /sbin, /usr/bin and /usr/sbin are the same place as /bin, where busybox installs its
	# links.
	mkdir "$root/usr"
	ln -s bin "$root/sbin"
	ln -s ../bin "$root/usr/bin"
	ln -s ../bin "$root/usr/sbin"
	cp "$busybox" "$root/bin/busybox" || return
	chmod 755 "$root/bin/busybox"
	echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
	echo 'root:x:0:' >"$root/etc/group"
	"${cross}gcc" -O2 -Wall -Wextra -Werror -static -o "$root/init" \
		"$GMEM_TOP/harness/guest/init.c" || return
	archive "$root" "$dir/base.cpio" || return
	echo "$state" >"$dir/state"
}

# guest_busybox ARCH: print the path of a static busybox: the host's own if it has the machine's
# architecture, else the package's file, fetched without enabling a foreign architecture on the
# host.
guest_busybox() {
	if [[ $1 == x86_64 && $(uname -m) == x86_64 ]]; then
		need x86_64
		echo /bin/busybox
	else
		fetch_busybox "$1"
	fi
}

# archive DIR FILE: write everything in DIR, owned by root, to FILE, in the format that the kernel
# unpacks.
archive() {
	(cd "$1" && find . -mindepth 1 -print0 | sort -z |
		cpio --null -o -H newc --owner=+0:+0 --quiet) >"$2"
}

# is_guest_dir PATH: true for directories of the machine: a file copied "to" one of them goes into
# it.
is_guest_dir() {
	case ${1%/} in
	'' | */. | /bin | /dev | /etc | /lib | /proc | /root | /run | /sbin | /sys | /tmp) ;;
	*) [[ $1 == */ ]] ;;
	esac
}

# add_file ROOT SRC[:DST]: copy a file or directory, modes kept, below ROOT.
add_file() {
	local root=$1 src=$2 dst=/
	if [[ ! -e $src && $src == *:* ]]; then
		dst=${src##*:}
		src=${src%:*}
	fi
	[[ -e $src ]] || usage_error "--file: $src does not exist"
	[[ $dst == /* ]] || dst=/$dst
	if is_guest_dir "$dst"; then
		dst=${dst%/}/$(basename "$(realpath -s "$src")")
	fi
	# Follow links of the image by hand, as a directory would replace them.
	case $dst in
	/sbin/* | /usr/bin/* | /usr/sbin/*) dst=/bin/${dst##*bin/} ;;
	esac
	mkdir -p "$root$(dirname "$dst")"
	# A directory is merged into one that is there already.
	if [[ -d $src && -d $root$dst ]]; then
		cp -a "$src/." "$root$dst/"
	else
		cp -aH "$src" "$root$dst"
	fi
}

# guest_run_archive DIR BUILD CMD...: make DIR/run.cpio, with all that is particular to this run.
guest_run_archive() {
	local dir=$1 build=$2 root=$1/root f
	shift 2
	mkdir -p "$root/gmem"
	for f in ${opt_files[@]+"${opt_files[@]}"}; do
		add_file "$root" "$f"
	done
	if [[ -d $build/root/lib/modules ]]; then
		mkdir -p "$root/lib"
		cp -a "$build/root/lib/modules" "$root/lib/"
		rm -f "$root"/lib/modules/*/{build,source}
		# modprobe loads kvm with kvm-amd, and all that kvm needs.
		echo kvm-amd >"$root/gmem/modules"
	fi
	hugepage_list "$opt_hugepages" >"$root/gmem/hugepages"
	if (($#)); then
		printf '%s\0' "$@" >"$root/gmem/argv"
	else
		touch "$root/gmem/shell"
	fi
	archive "$root" "$dir/run.cpio"
	rm -rf "$root"
}

# size_kb SIZE: print a size like 64K, 2M, 1G in kB.
size_kb() {
	local n=${1%[KMGkmg]}
	[[ $n =~ ^[0-9]+$ ]] || usage_error "'$1' is no size (2M, 1G, ...)"
	case $1 in
	*[Kk]) echo "$n" ;;
	*[Mm]) echo $((n * 1024)) ;;
	*[Gg]) echo $((n * 1024 * 1024)) ;;
	*) usage_error "'$1' has no unit (K, M, G)" ;;
	esac
}

# hugepage_list 1G=2,2M=64: print lines of "kB count".
hugepage_list() {
	local entry kb
	for entry in ${1//,/ }; do
		[[ $entry =~ ^[0-9]+[KMGkmg]=[0-9]+$ ]] ||
			usage_error "--hugepages: '$entry' is not SIZE=COUNT"
		[[ " $hugepage_sizes " == *" ${entry%=*} "* ]] ||
			usage_error "--hugepages: $arch has $hugepage_sizes, not ${entry%=*}"
		kb=$(size_kb "${entry%=*}")
		echo "$kb ${entry#*=}"
	done
}
