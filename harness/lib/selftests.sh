# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Build the kernel's selftests and tools, from the patched tree, as static programs for the machine.

use kernel packages tree

# selftest_build ARCH DIR/NAME...: build these. Prints nothing; selftest_path says where one is.
selftest_build() {
	local arch=$1
	shift
	kernel_env "$arch"
	need build
	[[ $arch == x86_64 ]] || need "$arch"
	locked "$GMEM_OUT/selftests-$arch.lock" selftest_build_locked "$@"
}

selftest_path() {
	echo "$GMEM_OUT/selftests/$1/$2"
}

# Export the headers, outside the source tree (one that has them inside refuses O=).
selftest_headers() {
	local dir=$tree/build-headers-$arch state
	state=$(source_state "$tree" | hash_of)
	[[ $(cat "$dir/.gmem-built" 2>/dev/null) != "$state" ]] || return 0
	[[ $GMEM_DRY ]] || mkdir -p "$dir"
	step "$GMEM_OUT/log/headers-$arch.log" "exporting headers, $arch" \
		"${kmake[@]}" -C "$tree" O="$dir" headers || return
	[[ $GMEM_DRY ]] || echo "$state" >"$dir/.gmem-built"
}

selftest_build_locked() {
	local dir names
	selftest_headers || return
	for dir in $(printf '%s\n' "${@%%/*}" | sort -u); do
		names=$(printf '%s\n' "$@" | sed -n "s,^$dir/,,p" | sort -u)
		selftest_make "$dir" "$names" || return
	done
}

selftest_make() {
	local dir=$1 out=$GMEM_OUT/selftests/$arch/$1 targets=() name
	local log=$GMEM_OUT/log/selftests-$arch-$dir.log
	for name in $2; do
		targets+=("$out/$name")
		mkdir -p "$(dirname "$out/$name")"
	done
	local args=("${kmake[@]}" -C "$tree/tools/testing/selftests/$dir" OUTPUT="$out"
		KHDR_INCLUDES="-isystem ../../../../build-headers-$arch/usr/include"
		LDFLAGS="-pthread -static -no-pie" "${targets[@]}")
	# Say nothing if make has nothing to do.
	[[ $GMEM_DRY ]] || ! "${args[@]}" -q >/dev/null 2>&1 || return 0
	step "$log" "building selftests/$dir, $arch" "${args[@]}"
}

# tool_build ARCH DIR/NAME...: build these programs of tools/. Prints nothing; tool_path says where.
tool_build() {
	local arch=$1
	shift
	kernel_env "$arch"
	need build
	[[ $arch == x86_64 ]] || need "$arch"
	locked "$GMEM_OUT/tools-$arch.lock" tool_build_locked "$@"
}

tool_path() {
	echo "$GMEM_OUT/tools/$1/$2"
}

# Not by make, which would build in the source tree. A program is one file, without own headers.
tool_build_locked() {
	local name out
	for name; do
		out=$(tool_path "$arch" "$name")
		[[ $GMEM_DRY ]] || mkdir -p "$(dirname "$out")"
		step "$GMEM_OUT/log/tools-$arch.log" "building tools/$name, $arch" \
			"${cross}gcc" -O2 -Wall -Wextra -Werror -static -o "$out.new" "$tree/tools/$name.c" &&
			doit mv "$out.new" "$out" || return
	done
}
