# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# The one table of how much slower everything else is than x86_64 default. Times are given for
# x86_64 default on an idle machine of two processors, and scaled from there.

# scale ARCH VARIANT ICOUNT: print the scale in percent.
scale() {
	local percent=100
	[[ $1 != arm64 ]] || percent=$((percent * 2))
	case $2 in
	debug | lockdep) percent=$((percent * 4)) ;;
	kasan) percent=$((percent * 6)) ;;
	esac
	[[ ! $3 ]] || percent=$((percent * 3))
	# GMEM_TIMEOUT_SCALE is for a host that does something else as well (CI, a second run).
	percent=$((percent * ${GMEM_TIMEOUT_SCALE:-100} / 100))
	echo "$percent"
}

# scaled SECONDS: print the seconds in the machine of opt_arch, opt_variant, opt_icount.
scaled() {
	echo $(($1 * $(scale "$opt_arch" "$opt_variant" "$opt_icount") / 100))
}

# load_percent: print how much longer everything takes because of what else runs on this host, in
# percent: tasks per processor, at least 100 and at most 400.
load_percent() {
	local load percent
	read -r load _ </proc/loadavg
	percent=$((10#${load/./} / $(nproc)))
	echo $((percent < 100 ? 100 : percent > 400 ? 400 : percent))
}

# init_limit: print the seconds that a boot has to reach init. A boot that takes longer has hung,
# and it is better to know that early: the limit is much less than boot_seconds, which is for a
# machine that moves on.
init_limit() {
	echo "${GMEM_INIT_SECONDS:-$(($(scaled "$init_seconds") * $(load_percent) / 100))}"
}
