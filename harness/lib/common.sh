# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Shared by all commands of the harness: places, messages, steps, locks.

set -euo pipefail
# The kernel's tools and ours sort and match bytes, whatever the user's language.
export LC_ALL=C

GMEM_TOP=${GMEM_TOP:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
# Only the tests of the harness itself use another place.
GMEM_OUT=${GMEM_OUT:-$GMEM_TOP/out}
GMEM_CACHE=${GMEM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/gmem}
GMEM_DRY=${GMEM_DRY:-}
GMEM_VERBOSE=${GMEM_VERBOSE:-}
export GMEM_TOP GMEM_OUT GMEM_CACHE GMEM_DRY GMEM_VERBOSE

# Exit codes, the same for every command (kselftest's, and timeout(1)'s).
EXIT_FAIL=1
EXIT_SKIP=4
EXIT_USAGE=64
EXIT_TIMEOUT=124

# shellcheck source=../../base.conf
. "$GMEM_TOP/base.conf"

# use LIB...: source libraries of harness/lib, unless they have been sourced already. A library
# begins with a `use` of those whose functions and variables it uses. It is sourced by a function:
# declare needs -g there.
declare -gA used=()
use() {
	local lib
	for lib; do
		[[ ! ${used[$lib]-} ]] || continue
		used[$lib]=1
		# shellcheck source=/dev/null
		. "$GMEM_TOP/harness/lib/$lib.sh"
	done
}

note() {
	printf 'gmem: %s\n' "$*" >&2
}

die() {
	printf 'gmem: %s\n' "$*" >&2
	exit "$EXIT_FAIL"
}

usage_error() {
	printf 'gmem: %s\n' "$*" >&2
	exit "$EXIT_USAGE"
}

# print_manual FILE: print the comment at the top of a command, which is its manual.
print_manual() {
	sed -n '3,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$1"
}

# common_option ARG: act on an option that every command takes. True if ARG is one of them.
common_option() {
	case $1 in
	-n) export GMEM_DRY=1 ;;
	-v) export GMEM_VERBOSE=1 ;;
	-h | --help) print_manual "$0"; exit 0 ;;
	*) return 1 ;;
	esac
}

# quote WORD...: print one line that the shell reads back as these words, with as little quoting as
# can be.
quote() {
	local word line=
	for word; do
		[[ $word =~ ^[A-Za-z0-9_=:,./+@%-]+$ ]] || word=${word@Q}
		line+="$word "
	done
	printf '%s\n' "${line% }"
}

# Run a command, or with -n print it in a form that can be pasted.
doit() {
	if [[ $GMEM_DRY ]]; then
		quote "$@"
	else
		"$@"
	fi
}

# step LOG TEXT CMD...: run CMD, with one line on stderr when it starts, one when it ends, and its
# output in LOG. With -v, the output goes to stderr as well.
step() {
	local log=$1 text=$2 start=$SECONDS status=0
	shift 2
	if [[ $GMEM_DRY ]]; then
		# A function prints by itself what it would do.
		if declare -F "$1" >/dev/null; then "$@"; else doit "$@"; fi
		return
	fi
	mkdir -p "$(dirname "$log")"
	note "$text ... (${log#"$GMEM_TOP"/})"
	if [[ $GMEM_VERBOSE ]]; then
		"$@" </dev/null 2>&1 | tee "$log" >&2 || status=$?
	else
		"$@" >"$log" 2>&1 </dev/null || status=$?
	fi
	if ((status)); then
		note "$text: FAILED after $((SECONDS - start)) s"
		[[ $GMEM_VERBOSE ]] || tail -n 20 "$log" >&2
		note "log: $log"
		return "$EXIT_FAIL"
	fi
	note "$text: $((SECONDS - start)) s"
}

# locked FILE CMD...: run CMD with FILE locked, i.e. one at a time.
locked() {
	local file=$1 fd status=0
	shift
	mkdir -p "$(dirname "$file")"
	exec {fd}>"$file"
	flock "$fd"
	"$@" {fd}>&- || status=$?
	exec {fd}>&-
	return "$status"
}

hash_of() {
	sha256sum | cut -c1-16
}
