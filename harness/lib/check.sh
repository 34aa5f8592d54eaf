# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# ./gmem check runs a list of items, cheapest first; those that boot machines run several at a time.
# All that is known of an item's run is in $check_dir/NAME.*.

use items kernel ktap mutants resume series-check style test

restarts=0	# machines that hung before init

# Every level has a function that adds its items; $1 is "all" for the long ones as well.
items_style() {
	local t
	for t in "${style_tests[@]}"; do
		add_item "style.$t" "style_$t"
	done
}

items_series() {
	# The names differ: a series that applies has not been built for that.
	[[ $1 == all ]] || add_item series series_check
	[[ ! $1 ]] || add_item series.build series_check "" 1
}

items_build() {
	local builds="x86_64:default arm64:default" b
	# Add them when an item is named as well, as a failure is repeated by its name.
	[[ ! $1 ]] ||
		builds+=" x86_64:debug arm64:debug arm64:el2 x86_64:module x86_64:nohugetlb x86_64:coco"
	for b in $builds; do
		[[ -f $GMEM_TOP/harness/variants/${b#*:}.config ]] || continue
		[[ ! $only_arch || $only_arch == "${b%:*}" ]] || continue
		[[ ! $only_variant || $only_variant == "${b#*:}" ]] || continue
		add_item "build.${b%:*}.${b#*:}" build_one "" "" "${b%:*}" "${b#*:}"
	done
}

build_one() {
	kernel_build "$1" "$2" ""
}

items_harness() {
	items_tests "$1" harness "$GMEM_TOP/harness/selftest"
}

items_unit() {
	[[ ! -f $GMEM_TOP/tools/testing/guestmem/Makefile ]] ||
		add_item unit.guestmem unit_guestmem
}

unit_guestmem() {
	mkdir -p "$GMEM_OUT/unit"
	make -s -C "$GMEM_TOP/tools/testing/guestmem" OUTPUT="$GMEM_OUT/unit" check
}

# A mutant is found by a test that the same kernel passes without it.
items_mutants() {
	local name killer
	[[ $1 ]] || return 0
	if [[ (! $only_arch || $only_arch == arm64) && (! $only_variant || $only_variant == el2) ]]; then
		add_mutant none.el2 mutants_control_el2 ""
		item_depends[mutants.none.el2]=mutants_depend_el2
		for name in $(mutants_by el2); do
			add_mutant "$name" mutant_el2 "$name"
		done
	fi
	[[ (! $only_arch || $only_arch == x86_64) && (! $only_variant || $only_variant == default) ]] ||
		return 0
	for name in $(mutants_by unit); do
		add_mutant "$name" mutant_unit "$name"
	done
	add_item mutants.build mutants_build
	for killer in $(mutants_killers); do
		add_mutant "none.$killer" mutants_control "$killer"
	done
	for name in $(mutants_by machine); do
		add_mutant "$name" mutant_kernel "$name"
	done
}

add_mutant() {
	add_item "mutants.$1" "$2" "" "$3"
	item_depends[mutants.$1]=mutants_depend
}

items_selftest() {
	items_tests "$1" selftest "$GMEM_TOP/harness/tests"
}

# items_tests HOW LEVEL DIR: add the tests of a directory, for every architecture and variant that
# is wanted.
items_tests() {
	local how=$1 lvl=$2 file name a v
	for file in "$3"/*.test; do
		[[ -f $file ]] || continue
		name=$(basename "$file" .test)
		load_test "$name"
		[[ $how == all || $how == name || $level == short ]] || continue
		for a in $archs; do
			[[ ! $only_arch || $only_arch == "$a" ]] || continue
			for v in $(wanted_variants "$how"); do
				add_item "$lvl.$name.$a.$v" run_test \
					"$name --arch $a --variant $v" "$name" "$a" "$v"
			done
		done
	done
}

wanted_variants() {
	local v
	if [[ $only_variant ]]; then
		echo "$only_variant"
	elif [[ $1 == all ]]; then
		for v in $variants; do
			[[ ! -f $GMEM_TOP/harness/variants/$v.config ]] || echo "$v"
		done
	else
		echo "${variants%% *}"
	fi
}

# list_items HOW: list the items of all levels: for "" those that CI runs, for "name" all others as
# well, in one variant, and for "all" all of them in every variant.
list_items() {
	items=()
	items_style "$1"; items_series "$1"; items_build "$1"
	items_harness "$1"; items_unit "$1"; items_selftest "$1"; items_mutants "$1"
}

# mark_items NAME ITEM...: mark the items that a user calls NAME: a level, an item, or a test. False
# if there is none.
mark_items() {
	local wanted=$1 item test found=1
	shift
	for item; do
		test=${item#*.}
		case $wanted in
		"$(item_level "$item")" | "$item" | "${item%.*.*}" | "${test%.*.*}")
			marked[$item]=1 found=0 ;;
		esac
	done
	return "$found"
}

# select_items NAME...: list the items to run. A level has the items that CI runs of it, all other
# items are found by their own names. If a name isn't found at all, return false with $unknown set
# to the first such name.
select_items() {
	local name short=() all=()
	local -A marked=()
	unknown=""
	list_items ""
	short=(${items[@]+"${items[@]}"})
	list_items name
	all=(${items[@]+"${items[@]}"})
	items=()
	for name; do
		mark_items "$name" ${short[@]+"${short[@]}"} ||
			mark_items "$name" ${all[@]+"${all[@]}"} ||
			{ unknown=$name; return 1; }
	done
	for name in ${all[@]+"${all[@]}"}; do
		[[ ! ${marked[$name]-} ]] || items+=("$name")
	done
}

# run_item NAME: run an item in a process of its own, with everything that it says and its status in
# $check_dir/NAME.*.
run_item() {
	local name=$1 status=0 start=$SECONDS base=$check_dir/$1 deps
	deps=$(item_deps "$name" 2>/dev/null) || deps=""
	if [[ $resume ]] && kept_find "$name" "$deps" 2>/dev/null; then
		echo 0 >"$base.status"
		return
	fi
	: >"$base.restarts"
	# Use a shell of its own, so that an item that exits, or gives up by die, has a status, too.
	(export GMEM_RESTARTS=$base.restarts; call_item "$name") >"$base.out" 2>"$base.err" </dev/null ||
		status=$?
	times >"$base.times"
	echo "$((SECONDS - start)) $(cpu_seconds "$base.times")" >"$base.time"
	item_text "$name" "$status" >"$base.text"
	if ((status)); then
		kept_drop "$name"
	else
		kept_save "$name" "$deps" 2>/dev/null
	fi
	echo "$status" >"$base.status"
}

# cpu_seconds FILE: print how many seconds of a processor the processes have used that the shell has
# waited for, from the output of `times`. Unlike the time that has passed, it hardly depends on
# other work.
cpu_seconds() {
	awk -F '[ms ]+' 'NR == 2 { printf "%d\n", $1 * 60 + $2 + $3 * 60 + $4 }' "$1"
}

# slowest_items N: print the N items that took the most of a processor, with the time that passed as
# well.
slowest_items() {
	local name seconds cpu
	for name in "${items[@]}"; do
		read -r seconds cpu <"$check_dir/$name.time"
		echo "$cpu $seconds $name"
	done | sort -rn | head -n "$1" |
		while read -r cpu seconds name; do echo "# $name: $seconds s, $cpu s of a processor"; done
}

# nested FILE: print the output of an item as KTAP allows it inside: results as they are, the rest
# as diagnostics.
nested() {
	sed -E '/^ *(KTAP version|TAP version|1\.\.[0-9]|(not )?ok |#)/!s/^/# /;s/^/    /' "$1"
}

# item_text NAME STATUS: print all that is to be said about an item, except for the outer line.
item_text() {
	local name=$1 base=$check_dir/$1 status=$2 run_dir="" seconds cpu
	if grep -qsE '^(KTAP|TAP) version' "$base.out"; then
		nested "$base.out"
	elif ((status != 0 && status != EXIT_SKIP)); then
		tail -n 40 "$base.out" | sed 's/^/# /'
	fi
	[[ ${item_function[$name]} != run_test ]] ||
		run_dir=$GMEM_OUT/runs/check-${item_subject[$name]}-${item_arch[$name]}-${item_variant[$name]}
	if ((status != 0 && status != EXIT_SKIP)); then
		tail -n 40 "$base.err" | sed 's/^/# /'
		[[ ! $run_dir || ! -f $run_dir/console ]] || echo "# console: $run_dir/console"
		echo "# again: ./gmem check ${item_again[$name]}"
	elif ((!status)) && [[ $run_dir && -f $run_dir/summary ]]; then
		sed 's/^/# /' "$run_dir/summary"
	fi
	sed 's/^/# hung before init, and started once more: /' "$base.restarts"
	read -r seconds cpu <"$base.time"
	echo "# seconds: $seconds, of a processor: $cpu"
}

# print_item NAME: print an item's text and the outer line, which is the verdict.
print_item() {
	local name=$1 base=$check_dir/$1 status reason="" word
	status=$(cat "$base.status")
	cat "$base.text"
	[[ ! -f $base.when ]] || echo "# passed on $(cat "$base.when"); nothing it depends on has changed"
	if ((status == EXIT_SKIP)); then
		reason=$(cat "$base.err" "$base.out" | grep -m1 -ioE '(SKIP|skipping).*' || tail -n 1 "$base.out")
	fi
	restarts=$((restarts + $(wc -l <"$base.restarts")))
	ktap_result "$status" "$name" "$reason"
	case $status in
	0) word=passed ;;
	"$EXIT_SKIP") word=skipped ;;
	*) word=FAILED ;;
	esac
	[[ ! -f $base.when ]] || word="has passed"
	note "$word $name ($(cut -d' ' -f1 "$base.time") s)"
}

# may_overlap NAME: true if an item boots machines. Such items may share the time, all others have
# it alone.
may_overlap() {
	[[ ${item_function[$1]} =~ ^(run_test|mutants_control|mutant_kernel)$ ]]
}

# run_items JOBS: start all items in order, and print them in order.
run_items() {
	local jobs=$1 name printed=0 running=0
	for name in ${items[@]+"${items[@]}"}; do
		while ((running >= jobs)) || { ((running)) && ! may_overlap "$name"; }; do
			wait -n || :
			running=$((running - 1))
			print_ready
		done
		run_item "$name" &
		running=$((running + 1))
		may_overlap "$name" || { wait || :; running=0; }
		print_ready
	done
	wait || :
	# An item that ended without leaving a status, e.g. because it was killed, has failed.
	for name in ${items[@]+"${items[@]}"}; do
		[[ -f $check_dir/$name.status ]] || item_lost "$name"
	done
	print_ready
}

item_lost() {
	local base=$check_dir/$1
	echo "ended without a status" >>"$base.err"
	touch "$base.out" "$base.restarts"
	[[ -f $base.time ]] || echo 0 0 >"$base.time"
	item_text "$1" "$EXIT_FAIL" >"$base.text"
	echo "$EXIT_FAIL" >"$base.status"
}

# end_items: end all items that are under way, each process by its number. Parents are ended first,
# so that they don't go on with the next thing. (A shell's jobs ignore the terminal's interrupt.)
end_items() {
	local pid pids=()
	for pid in $(jobs -p); do
		add_descendants "$pid"
	done
	((!${#pids[@]})) || kill "${pids[@]}" 2>/dev/null || :
	wait || :
}

# add_descendants PID: add PID and all its descendants to pids.
add_descendants() {
	local child
	pids+=("$1")
	for child in $(ps -o pid= --ppid "$1" || :); do
		add_descendants "$child"
	done
}

# Fail if everything of a level was skipped: such a level has tested nothing.
every_level_tested() {
	local name level
	declare -A tested=()
	for name in "${items[@]}"; do
		level=$(item_level "$name")
		: "${tested[$level]:=}"
		[[ $(cat "$check_dir/$name.status") == "$EXIT_SKIP" ]] || tested[$level]=yes
	done
	for level in "${!tested[@]}"; do
		[[ ${tested[$level]} ]] || { echo "level $level: everything was skipped"; return 1; }
	done
}

print_ready() {
	while ((printed < ${#items[@]})) && [[ -f $check_dir/${items[printed]}.status ]]; do
		print_item "${items[printed]}"
		printed=$((printed + 1))
	done
}
