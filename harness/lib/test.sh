# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Tests are small files, harness/tests/NAME.test and harness/selftest/NAME.test, that set variables.
# (Those in harness/mutants only find mutants, see mutants.sh.)
#
#   DESCRIPTION   "This test will ..."
#   level         short (every check) or long (check all, or by name)
#   archs         x86_64, arm64 (default: x86_64)
#   variants      those of `check all`; the first is the one of `check` (default debug)
#   selftests     kernel selftests it needs: kvm/guest_memfd_test ...; they are in /t
#   tools         programs of the kernel's tools/ it needs: mm/guestmem-units ...; they are in /t
#   files=()      more files for the machine, SRC[:DST], relative to the repository
#   cmd=()        what to run there (default: the first selftest)
#   host_cmd=()   or: what to run here instead, in the repository's directory
#   kernel_needed no: it boots nothing, so nothing has to be built before it
#   hugepages, smp, numa, mem, vanilla, icount, append=()   the machine (as ./gmem run)
#   timeout       seconds (120); scaled by architecture and variant
#   boot_once     yes: something is tested before init, so a boot that hangs is a result
#   plan          required, or checked if there is one (optional), or none
#   pools         yes: the huge page counters must come back (no: they need not)
#   expect_splat=() require_splat=() expect_taint   what the console may, must show

use kernel selftests timeouts tree

test_dirs=("$GMEM_TOP/harness/tests" "$GMEM_TOP/harness/selftest" "$GMEM_TOP/harness/mutants")

test_file() {
	local dir
	for dir in "${test_dirs[@]}"; do
		[[ ! -f $dir/$1.test ]] || { echo "$dir/$1.test"; return; }
	done
	return 1
}

# load_test NAME: set the test's variables, over the defaults.
load_test() {
	DESCRIPTION="" level=short archs=x86_64 variants="default debug" selftests="" tools=""
	hugepages="" smp=2 numa=1 mem="" vanilla="" icount="" timeout=120 kernel_needed=yes plan=optional pools=yes
	boot_once=no
	expect_taint="" files=() cmd=() host_cmd=() append=() expect_splat=() require_splat=()
	# shellcheck source=/dev/null
	. "$(test_file "$1")"
	if ((!${#cmd[@]} && !${#host_cmd[@]})); then
		cmd=("/t/$(basename "${selftests%% *}")")
	fi
}

# test_args NAME ARCH VARIANT: set run_args to the options of ./gmem run.
test_args() {
	local name=$1 arch=$2 variant=$3 f
	opt_arch=$arch opt_variant=$variant opt_icount=$icount
	run_args=(--arch "$arch" --variant "$variant" --id "check-$name-$arch-$variant"
		--smp "$smp" --numa "$numa" --timeout "$(scaled "$timeout")")
	[[ ! $vanilla ]] || run_args+=(--vanilla)
	[[ ! $icount ]] || run_args+=(--icount)
	[[ ! $mem ]] || run_args+=(--mem "$mem")
	[[ ! $hugepages ]] || run_args+=(--hugepages "$hugepages")
	for f in $selftests; do
		run_args+=(--file "$(selftest_path "$arch" "$f"):/t/")
	done
	for f in $tools; do
		run_args+=(--file "$(tool_path "$arch" "$f"):/t/")
	done
	for f in ${files[@]+"${files[@]}"}; do
		[[ $f == /* ]] || f=$GMEM_TOP/$f
		run_args+=(--file "$f")
	done
	for f in ${append[@]+"${append[@]}"}; do run_args+=(--append "$f"); done
	for f in ${expect_splat[@]+"${expect_splat[@]}"}; do run_args+=(--expect-splat "$f"); done
	for f in ${require_splat[@]+"${require_splat[@]}"}; do run_args+=(--require-splat "$f"); done
	[[ ! $expect_taint ]] || run_args+=(--expect-taint "$expect_taint")
	[[ $boot_once != yes ]] || run_args+=(--boot-once)
	[[ $pools != yes ]] || run_args+=(--pools)
	case $plan in
	required) run_args+=(--plan) ;;
	optional) run_args+=(--tap) ;;
	esac
}

# run_test NAME ARCH VARIANT: run a test in its machine, or on the host. The status is the verdict.
run_test() {
	local run_args
	load_test "$1"
	if ((${#host_cmd[@]})); then
		run_host_test "$@"
		return
	fi
	# shellcheck disable=SC2086 # a list of words
	[[ ! $selftests ]] || selftest_build "$2" $selftests || return
	# shellcheck disable=SC2086 # a list of words
	[[ ! $tools ]] || tool_build "$2" $tools || return
	test_args "$@"
	"$GMEM_TOP/harness/cmd/run" "${run_args[@]}" -- "${cmd[@]}"
}

# Run a test on the host, in a process group of its own, so that a timeout takes all of it along.
run_host_test() {
	local limit status=0 start
	opt_arch=$2 opt_variant=$3 opt_icount=""
	# A build does not count as the test's time.
	if [[ $kernel_needed == yes ]]; then
		tree_ready "$vanilla" && kernel_build "$2" "$3" "$vanilla" || return
	fi
	limit=$(scaled "$timeout")
	if [[ $GMEM_DRY ]]; then
		quote cd "$GMEM_TOP"
		quote env GMEM_ARCH="$2" GMEM_VARIANT="$3" \
			timeout -k 10 "$limit" "${host_cmd[@]}"
		return
	fi
	start=$SECONDS
	(cd "$GMEM_TOP" && GMEM_ARCH=$2 GMEM_VARIANT=$3 \
		timeout -k 10 "$limit" "${host_cmd[@]}") || status=$?
	# A machine of the test that took too long has the same status.
	((status != 124 || SECONDS - start < limit)) || note "$1 took longer than $limit s"
	return "$status"
}
