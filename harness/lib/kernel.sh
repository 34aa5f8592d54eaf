# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Configure and build a kernel: tinyconfig plus configs/common, configs/<arch> and
# variants/<variant>. A build directory is a subdirectory of the source tree, so that paths
# in the objects are relative and the compiler cache serves every clone.

use packages

# kernel_env ARCH: set the variables of harness/arch/<arch>.conf, and make's command line.
kernel_env() {
	local conf=$GMEM_TOP/harness/arch/$1.conf
	[[ -f $conf ]] || usage_error "no architecture '$1' (harness/arch has:" \
		"$(cd "$GMEM_TOP/harness/arch" && echo *.conf | sed 's/\.conf//g'))"
	arch=$1
	# shellcheck source=../arch/x86_64.conf
	. "$conf"
	export CCACHE_DIR=$GMEM_CACHE/ccache CCACHE_NOHASHDIR=1
	# These are fixed, so that the same source gives the same image.
	export KBUILD_BUILD_TIMESTAMP="Thu Jan  1 00:00:00 UTC 2026"
	export KBUILD_BUILD_USER=gmem KBUILD_BUILD_HOST=gmem
	kmake=(make -j"$(nproc)" ARCH="$make_arch" CC="ccache ${cross}gcc")
	[[ -z $cross ]] || kmake+=(CROSS_COMPILE="$cross")
}

# check_variant ARCH VARIANT: fail if there is no such variant, or if its line `# archs:` lacks
# ARCH.
check_variant() {
	local file=$GMEM_TOP/harness/variants/$2.config archs
	[[ -f $file ]] || usage_error "no variant '$2' (harness/variants has:" \
		"$(cd "$GMEM_TOP/harness/variants" && echo *.config | sed 's/\.config//g'))"
	archs=$(sed -n 's/^# archs: //p' "$file")
	[[ -z $archs || " $archs " == *" $1 "* ]] ||
		usage_error "variant '$2' is for $archs, not $1"
}

# kernel_src VANILLA: print the path of the source tree.
kernel_src() {
	if [[ ${1:-} ]]; then
		echo "$GMEM_OUT/linux-vanilla"
	else
		echo "$GMEM_OUT/linux"
	fi
}

fragments() {
	local arch=$1 variant=$2
	printf '%s\n' "$GMEM_TOP/harness/configs/"{common,"$arch"}.config \
		"$GMEM_TOP/harness/variants/$variant.config"
}

# source_state SRC: print what make would look at: the commit, and every file that differs from it.
source_state() {
	local src=$1
	[[ -d $src ]] || return 0	# -n, before there is anything
	git -C "$src" rev-parse HEAD
	git -C "$src" status --porcelain --no-renames | while read -r what path; do
		echo "$what $path $(stat -c '%Y %s' "$src/$path" 2>/dev/null || :)"
	done
}

# lost_options CONFIG FRAGMENT...: print the options of the fragments that did not make it into the
# configuration, one a line.
lost_options() {
	local config=$1 line name
	shift
	cat "$@" | grep -E '^(CONFIG_[A-Z0-9_a-z]+=|# CONFIG_[A-Z0-9_a-z]+ is not set)' |
		# The last line about an option is the one that counts.
		tac | awk '{ n = $0; sub(/^# /, "", n); sub(/[= ].*/, "", n) } !seen[n]++' |
		while read -r line; do
			name=${line#\# }
			name=${name%%[= ]*}
			case $line in
			\#* | *=n) ! grep -q "^$name=" "$config" || echo "$line" ;;
			*) grep -qxF -- "$line" "$config" || echo "$line" ;;
			esac
		done
}

# unknown_to SRC: print those of the options on stdin that do not exist in SRC. Options of the
# series do not exist in the unpatched base, where they are no loss.
unknown_to() {
	local src=$1 line name
	while read -r line; do
		name=${line#CONFIG_}
		name=${name%%=*}
		grep -rqE "^[[:space:]]*(menu)?config $name\$" --include='Kconfig*' \
			"$src"/{mm,virt,arch,lib,init,kernel,drivers,fs} || echo "$line"
	done
}

# The functions below run where bash ignores -e (their caller looks at the status), so
# every step that can fail says so itself.
kernel_configure() {
	local src=$1 build=$2 variant=$3 vanilla=$4 lost unknown
	local new=$build/.config.new files
	mapfile -t files < <(fragments "$arch" "$variant")
	mkdir -p "$build" || return
	KCONFIG_CONFIG=$new "${kmake[@]}" -C "$src" O="$build" tinyconfig || return
	cat "${files[@]}" >>"$new"
	KCONFIG_CONFIG=$new "${kmake[@]}" -C "$src" O="$build" olddefconfig || return
	lost=$(lost_options "$new" "${files[@]}")
	if [[ $lost && $vanilla ]]; then
		unknown=$(unknown_to "$src" <<<"$lost")
		lost=$(grep -vxF -- "$unknown" <<<"$lost" || :)
	fi
	if [[ $lost ]]; then
		printf 'lost in olddefconfig (a dependency is missing, or the option is gone):\n%s\n' \
			"$lost"
		return 1
	fi
	# Leave .config untouched if nothing has changed: every object depends on it.
	if cmp -s "$new" "$build/.config"; then
		rm -f "$new"
	else
		mv "$new" "$build/.config"
	fi
	rm -f "$new.old"
}

kernel_make() {
	local src=$1 build=$2 variant=$3 vanilla=$4 state=$5
	kernel_configure "$src" "$build" "$variant" "$vanilla" || return
	if grep -q '^CONFIG_MODULES=y' "$build/.config"; then
		"${kmake[@]}" -C "$src" O="$build" "${image##*/}" modules || return
		rm -rf "$build/root"
		"${kmake[@]}" -C "$src" O="$build" INSTALL_MOD_PATH="$build/root" \
			INSTALL_MOD_STRIP=1 modules_install || return
	else
		"${kmake[@]}" -C "$src" O="$build" "${image##*/}" || return
	fi
	echo "$state" >"$build/.gmem-built"
}

# Print the same commands in a form that can be pasted (-n).
kernel_print() {
	local src=$1 build=$2 variant=$3
	local env
	env="CCACHE_DIR=$(quote "$CCACHE_DIR") CCACHE_NOHASHDIR=1"
	echo "$env $(quote "${kmake[@]}" -C "$src" O="$build" tinyconfig)"
	# shellcheck disable=SC2046 # a list of words
	echo "cat $(quote $(fragments "$arch" "$variant")) >>$(quote "$build/.config")"
	echo "$env $(quote "${kmake[@]}" -C "$src" O="$build" olddefconfig "${image##*/}")"
}

# kernel_build ARCH VARIANT VANILLA: make the kernel current. Sets build (the directory) and kernel
# (the image). This is cheap when nothing has changed: make alone takes ten seconds to see that.
kernel_build() {
	local variant=$2 vanilla=$3 src state
	kernel_env "$1"
	check_variant "$arch" "$variant"
	src=$(kernel_src "$vanilla")
	build=$src/build-$arch-$variant
	kernel=$build/$image
	state=$({ source_state "$src"; fragments "$arch" "$variant" | xargs cat; \
		"${cross}gcc" --version; } | hash_of)
	[[ $(cat "$build/.gmem-built" 2>/dev/null) != "$state" || ! -f $kernel ]] || return 0
	need build "$arch"
	# Run one build at a time: two would only take turns on the same processors.
	locked "$GMEM_OUT/build.lock" kernel_build_locked
}

kernel_build_locked() {
	# The last holder of the lock may have built just this.
	[[ $(cat "$build/.gmem-built" 2>/dev/null) != "$state" || ! -f $kernel ]] || return 0
	if [[ $GMEM_DRY ]]; then
		kernel_print "$src" "$build" "$variant"
		return
	fi
	step "$GMEM_OUT/log/build-$arch-$variant${vanilla:+-vanilla}.log" \
		"building linux, $arch $variant${vanilla:+, unpatched}" \
		kernel_make "$src" "$build" "$variant" "$vanilla" "$state"
}
