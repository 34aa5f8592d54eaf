# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Print results as KTAP, version 1 (Documentation/dev-tools/ktap.rst): a plan, one line per test,
# diagnostics before the line that they explain.

ktap_nr=0 ktap_pass=0 ktap_fail=0 ktap_skip=0 ktap_plan=0

ktap_start() {
	ktap_nr=0 ktap_pass=0 ktap_fail=0 ktap_skip=0 ktap_plan=$1
	echo "KTAP version 1"
	echo "1..$1"
}

# ktap_text TEXT: print lines of text as diagnostics.
ktap_text() {
	[[ ! ${1-} ]] || printf '%s\n' "$1" | sed 's/^/# /'
}

# ktap_result STATUS NAME [REASON]: print a result. Status 0 is passed, 4 skipped, all else failed.
ktap_result() {
	local status=$1 name=$2 reason=${3-}
	ktap_nr=$((ktap_nr + 1))
	case $status in
	0) ktap_pass=$((ktap_pass + 1)); echo "ok $ktap_nr $name" ;;
	"$EXIT_SKIP") ktap_skip=$((ktap_skip + 1)); echo "ok $ktap_nr $name # SKIP $reason" ;;
	*) ktap_fail=$((ktap_fail + 1)); echo "not ok $ktap_nr $name" ;;
	esac
}

# ktap_case NAME CMD...: run CMD, and print its result. Its output is only shown if it fails, or
# says why it skipped.
ktap_case() {
	local name=$1 text status=0
	shift
	text=$("$@" 2>&1) || status=$?
	if ((status == EXIT_SKIP)); then
		ktap_result "$status" "$name" "$(tail -n 1 <<<"$text")"
		return
	fi
	((status == 0)) || ktap_text "$text"
	ktap_result "$status" "$name"
}

# Print the totals. A plan that wasn't carried out is a failure, whatever did run.
ktap_totals() {
	if ((ktap_nr != ktap_plan)); then
		echo "# planned $ktap_plan, but there are $ktap_nr results"
		ktap_fail=$((ktap_fail + 1))
	fi
	echo "# Totals: pass:$ktap_pass fail:$ktap_fail skip:$ktap_skip error:0"
}

# Return 0 if all that wasn't skipped has passed, 1 if something failed, 4 if there were only skips.
ktap_status() {
	if ((ktap_fail)); then
		return "$EXIT_FAIL"
	elif ((!ktap_pass)); then
		return "$EXIT_SKIP"
	fi
}
