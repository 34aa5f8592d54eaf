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

# load_percent: how much longer everything takes because of what else runs on this machine:
# tasks per processor, at least 100 and at most 400.
load_percent() {
	local load percent
	read -r load _ </proc/loadavg
	percent=$((10#${load/./} / $(nproc)))
	echo $((percent < 100 ? 100 : percent > 400 ? 400 : percent))
}

# init_limit: seconds a boot has to reach init. One that takes longer has hung, and it is
# better to know early: that is much less than boot_seconds, which is for a machine that moves.
init_limit() {
	echo "${GMEM_INIT_SECONDS:-$(($(scaled "$init_seconds") * $(load_percent) / 100))}"
}
