# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# The one table of how much slower than x86_64 default everything else is. Times are
# given for that one on an idle machine of two processors, and scaled from there.

# scale ARCH VARIANT ICOUNT: percent.
scale() {
	local percent=100
	[[ $1 != arm64 ]] || percent=$((percent * 2))
	case $2 in
	debug | lockdep) percent=$((percent * 4)) ;;
	kasan) percent=$((percent * 6)) ;;
	esac
	[[ ! $3 ]] || percent=$((percent * 3))
	# For a machine that does something else as well (CI, a second run).
	percent=$((percent * ${GMEM_TIMEOUT_SCALE:-100} / 100))
	echo "$percent"
}

# scaled SECONDS: in the machine of opt_arch, opt_variant, opt_icount.
scaled() {
	echo $(($1 * $(scale "$opt_arch" "$opt_variant" "$opt_icount") / 100))
}
