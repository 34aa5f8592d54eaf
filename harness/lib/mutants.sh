# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Mutants: the code broken on purpose, at one place each, as harness/mutants/*.mutants say. A mutant
# that its test does not find shows that the test is too weak.
#
# All mutants of the kernel are built into one kernel, in a tree of its own, and the boot line says
# which of them is on. That kernel has the variant of the test that finds them. Without any, the same
# kernel must pass the same tests. A mutant of the arithmetic is found in user space ("by unit"). A
# mutant of pKVM's hypervisor is a kernel of its own, as the hypervisor has no boot line, and the
# hypervisor finds it while it boots ("by el2").
# harness/mutants/equivalent names those that cannot be found.

use clone kernel resume run selftests test timeouts tree

mutants_tree=$GMEM_OUT/linux-mutants
mutants_el2_tree=$GMEM_OUT/linux-mutants-el2
mutants_out=$GMEM_OUT/mutants

# mutants_pl MODE SOURCE...: see mutants.pl.
mutants_pl() {
	local mode=$1
	shift
	perl "$GMEM_TOP/harness/lib/mutants.pl" "$mode" "$GMEM_TOP"/harness/mutants/*.mutants -- "$@"
}

# mutants_sources DIR: print the files of a kernel tree that have mutants.
mutants_sources() {
	local file
	for file in "$1"/mm/guestmem*.[ch] "$1"/virt/kvm/guest_memfd*.[ch] \
		"$1"/arch/x86/kvm/mmu/{mmu,tdp_mmu}.c \
		"$1"/arch/arm64/kvm/hyp/{pgtable,nvhe/mem_protect}.c; do
		[[ ! -f $file ]] || echo "$file"
	done
}

# mutant_field NAME NR: print a field of a mutant: 1 its number, 3 its test, 4 its seconds.
mutant_field() {
	mutants_pl list | awk -F '\t' -v name="$1" -v nr="$2" '$2 == name { print $nr }'
}

# mutants_by unit|el2|machine: print the names of the mutants that are found that way.
mutants_by() {
	mutants_pl list | awk -F '\t' -v by="$1" '(by == "machine") ? $3 !~ /^(unit|el2)$/ : $3 == by { print $2 }'
}

# mutants_killers: print the tests that find mutants of the kernel, a line each.
mutants_killers() {
	mutants_pl list | cut -f 3 | grep -vxE 'unit|el2' | sort -u
}

# mutants_check: fail unless all mutants apply to the tree, and all of their tests are there.
mutants_check() {
	local files killer status=0
	mapfile -t files < <(mutants_sources "$tree")
	mutants_pl check "${files[@]}" || status=1
	while read -r killer; do
		test_file "$killer" >/dev/null || { echo "$killer: no such test"; status=1; }
	done < <(mutants_killers)
	(($(grep -c '^In ' "$GMEM_TOP/harness/mutants/equivalent") <= 5)) ||
		{ echo "harness/mutants/equivalent: more than five"; status=1; }
	return "$status"
}

# mutants_prepare MODE: make the tree what out/linux is, committed or not, with the mutants that
# mutants.pl puts there in this mode.
mutants_prepare() {
	local content commit files state
	have_clone "$mutants_tree" || return
	grep -qsxF "$tree/.git/objects" "$mutants_tree/.git/objects/info/alternates" ||
		echo "$tree/.git/objects" >>"$mutants_tree/.git/objects/info/alternates"
	content=$(content_of "$tree") || return
	commit=$(GIT_AUTHOR_NAME=gmem GIT_AUTHOR_EMAIL=gmem@localhost GIT_AUTHOR_DATE="2026-01-01T00:00:00+0000" \
		GIT_COMMITTER_NAME=gmem GIT_COMMITTER_EMAIL=gmem@localhost \
		GIT_COMMITTER_DATE="2026-01-01T00:00:00+0000" \
		ktree commit-tree "$content" -m mutants) || return
	# A file that has the same mutants already is left alone: it need not be compiled again.
	state="$1 $commit $(cat "$GMEM_TOP"/harness/{mutants/*.mutants,lib/mutants.pl} | hash_of)"
	[[ $state != "$(cat "$mutants_tree/.git/gmem-mutants" 2>/dev/null)" ]] || return 0
	rm -f "$mutants_tree/.git/gmem-mutants"
	git -C "$mutants_tree" checkout -q -f --detach "$commit" || return
	mapfile -t files < <(mutants_sources "$mutants_tree")
	mutants_pl "$1" "${files[@]}" || return
	echo "$state" >"$mutants_tree/.git/gmem-mutants"
}

# in_mutants_tree CMD...: run CMD with the tree of the mutants in place of out/linux.
in_mutants_tree() (
	# shellcheck disable=SC2317 # kernel_build() and run_machine() call them
	tree_ready() { :; }
	# shellcheck disable=SC2317
	kernel_src() { echo "$mutants_tree"; }
	"$@"
)

# mutants_variant KILLER: print the variant in which a test finds mutants, the first one of its own.
mutants_variant() (
	load_test "$1"
	echo "${variants%% *}"
)

# mutants_build [VARIANT]: build the kernel that has all mutants.
mutants_build() {
	locked "$GMEM_OUT/mutants.lock" mutants_prepare instrument || return
	in_mutants_tree kernel_build x86_64 "${1-default}" ""
}

# mutant_run KILLER NR SECONDS ID: build and boot that kernel with one mutant on, and run a test
# there.
mutant_run() {
	local run_args opt_timeout variant
	variant=$(mutants_variant "$1")
	mutants_build "$variant" || return
	load_test "$1"
	# shellcheck disable=SC2086 # a list of words
	[[ ! $selftests ]] || selftest_build x86_64 $selftests || return
	# shellcheck disable=SC2086 # a list of words
	[[ ! $tools ]] || tool_build x86_64 $tools || return
	test_args "$1" x86_64 "$variant"
	opt_timeout=$(scaled "$3")
	in_mutants_tree mutant_machine "${run_args[@]}" --append "gmem_mutant=$2" --id "$4" \
		--timeout "$opt_timeout" -- "${cmd[@]}"
}

mutant_machine() {
	run_defaults
	parse_run_options "$@"
	run_machine "${run_cmd[@]}"
}

# mutants_control KILLER: pass if the test passes with no mutant on.
mutants_control() {
	load_test "$1"
	mutant_run "$1" 0 "$timeout" "mutant-none-$1"
}

# mutant_kernel NAME: pass if the mutant's test fails, for a reason that the test or the kernel says.
mutant_kernel() {
	local killer seconds status=0 run=$GMEM_OUT/runs/mutant-$1
	killer=$(mutant_field "$1" 3) && seconds=$(mutant_field "$1" 4) || return
	rm -f "$run/verdict"
	mutant_run "$killer" "$(mutant_field "$1" 1)" "$seconds" "mutant-$1" 2>&1 || status=$?
	echo
	if [[ ! -f $run/verdict ]]; then
		echo "$1: there was no machine to run $killer in"
		return 1
	elif ((!status)); then
		echo "$1 lives: $killer passes"
		return 1
	elif ! mutant_reason "$run"; then
		echo "$1: $killer fails (status $status), but neither it nor the kernel says why"
		return 1
	fi
}

# mutant_reason RUN: print why a run is a failure because of the mutant. False if it may have failed
# for another reason, e.g. because the program isn't there or because the machine did not boot.
mutant_reason() {
	local run=$1 outcome
	outcome=$(sed -n 's/^outcome //p' "$run/verdict")
	sed -n '/^\(kernel\|kernel tainted\|huge pages not as before\|guest_memfd\): /p' "$run/verdict" | grep -m 1 . ||
		grep -hm 1 -E '^ *not ok |Test Assertion Failure|^Bail out' "$run"/{stdout,stderr} 2>/dev/null ||
		{ [[ $outcome == timeout ]] && echo "took too long"; } ||
		# A kernel that tests itself while it boots has begun to do so.
		{ [[ $outcome == stuck || $outcome == hung || $outcome == died ]] &&
			grep -qE 'gmem: init has started|KTAP version 1' "$run/console" 2>/dev/null &&
			echo "the machine hung"; }
}

# mutant_unit NAME: pass if the tests in user space fail with the mutant.
mutant_unit() {
	local dir=$mutants_out/$1 seconds status=0
	seconds=$(mutant_field "$1" 4)
	rm -rf "$dir"
	mkdir -p "$dir"/{mm,tools/testing}
	cp "$GMEM_TOP"/mm/guestmem*.[ch] "$dir/mm/" && cp -r "$GMEM_TOP/tools/testing/guestmem" "$dir/tools/testing/" &&
		mutants_pl "only=$1" "$dir"/mm/guestmem*.c || return
	make -s -C "$dir/tools/testing/guestmem" OUTPUT="$dir" COMPILERS=gcc all || return
	timeout "$seconds" make -s -C "$dir/tools/testing/guestmem" OUTPUT="$dir" COMPILERS=gcc ROUNDS=100 check ||
		status=$?
	if ((!status)); then
		echo "$1 lives: tools/testing/guestmem passes"
		return 1
	fi
	rm -rf "$dir"
}

# mutant_boot_el2 NAME: boot a kernel with one mutant of the hypervisor, or with none.
mutant_boot_el2() {
	local mutants_tree=$mutants_el2_tree opt_timeout
	local opt_arch=arm64 opt_variant=el2 opt_icount=""
	mutants_prepare "only=$1" && in_mutants_tree kernel_build arm64 el2 "" || return
	opt_timeout=$(scaled 60)
	in_mutants_tree mutant_machine --arch arm64 --variant el2 --id "mutant-$1" \
		--timeout "$opt_timeout" -- grep -q CapEff /proc/self/status
}

# mutants_control_el2: pass if the hypervisor boots with no mutant.
mutants_control_el2() {
	locked "$GMEM_OUT/mutants-el2.lock" mutant_boot_el2 none_el2
}

# mutant_el2 NAME: pass if the hypervisor panics because of the mutant.
mutant_el2() {
	local run=$GMEM_OUT/runs/mutant-$1
	rm -f "$run/console"
	! locked "$GMEM_OUT/mutants-el2.lock" mutant_boot_el2 "$1" 2>&1 ||
		{ echo "$1 lives: the hypervisor boots"; return 1; }
	echo
	# The hypervisor says in which file it has found something.
	grep -hm 1 -E 'nVHE hyp (panic|BUG) at: .*mem_protect' "$run/console" 2>/dev/null ||
		{ echo "$1: the machine does not boot, but not because of the hypervisor"; return 1; }
}

# mutants_depend NAME: print what the verdict about a mutant or, if NAME is a test, about the kernel
# without one depends on.
mutants_depend() {
	local killer
	killer=$(mutant_field "$1" 3)
	# shellcheck disable=SC2046 # a list of words
	echo "mutants $(ours harness/mutants $(harness_files))"
	if [[ $killer == unit ]]; then
		echo "sources $(ours tools/testing/guestmem mm)"
	elif [[ $killer == el2 ]]; then
		mutants_depend_el2
	else
		dep_test "${killer:-$1}" x86_64 "$(mutants_variant "${killer:-$1}")"
	fi
}

mutants_depend_el2() {
	# shellcheck disable=SC2046 # a list of words
	echo "mutants $(ours harness/mutants $(harness_files))"
	dep_kernel arm64 el2
	echo "qemu $("$qemu" --version 2>&1 | hash_of) $(hash_of </bin/busybox)"
}
