# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# What ./gmem check runs: a list of items, each a name, the command that repeats it and a
# function. They run cheapest first, the ones that boot machines several at a time.

items=()	# "level name again function args..."

add_item() {
	items+=("$*")
}

# Every level adds its items; $1 is "all" for the long ones as well.
items_style() {
	local t
	for t in "${style_tests[@]}"; do
		add_item "style style.$t style.$t style_$t"
	done
}

items_series() {
	if [[ $1 == all ]]; then
		add_item "series series series:--build series_check 1"
	else
		add_item "series series series series_check"
	fi
}

items_build() {
	local builds="x86_64:default arm64:default" b
	# By name as well, as that is how a failure is repeated.
	[[ ! $1 ]] || builds+=" x86_64:debug arm64:debug x86_64:module x86_64:nohugetlb"
	for b in $builds; do
		[[ -f $GMEM_TOP/harness/variants/${b#*:}.config ]] || continue
		[[ ! $only_arch || $only_arch == "${b%:*}" ]] || continue
		[[ ! $only_variant || $only_variant == "${b#*:}" ]] || continue
		add_item "build build.${b%:*}.${b#*:} build.${b%:*}.${b#*:} build_one ${b%:*} ${b#*:}"
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
		add_item "unit unit.guestmem unit.guestmem unit_guestmem"
}

unit_guestmem() {
	mkdir -p "$GMEM_OUT/unit"
	make -s -C "$GMEM_TOP/tools/testing/guestmem" OUTPUT="$GMEM_OUT/unit" check
}

items_selftest() {
	items_tests "$1" selftest "$GMEM_TOP/harness/tests"
}

# The tests of a directory, for every architecture and variant that is wanted.
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
				add_item "$lvl $lvl.$name.$a.$v $name:--arch:$a:--variant:$v" \
					"run_test $name $a $v"
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

# list_items HOW: of all levels. "" is what CI runs, "name" what there is beside it as well, in
# one variant, and "all" in every variant.
list_items() {
	items=()
	items_style "$1"; items_series "$1"; items_build "$1"
	items_harness "$1"; items_unit "$1"; items_selftest "$1"
}

# mark_items NAME ITEM...: what a user calls that, a level, an item, or a test.
mark_items() {
	local wanted=$1 item words name found=1
	shift
	for item; do
		read -ra words <<<"$item"
		name=${words[1]#*.}
		case $wanted in
		"${words[0]}" | "${words[1]}" | "${words[1]%.*.*}" | "${name%.*.*}")
			marked[${words[1]}]=1 found=0 ;;
		esac
	done
	return "$found"
}

# select_items NAME...: a level has what CI runs of it, all else is found by its own name.
# $unknown is the first one that isn't found at all.
select_items() {
	local name item words short=() all=()
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
	for item in ${all[@]+"${all[@]}"}; do
		read -ra words <<<"$item"
		[[ ! ${marked[${words[1]}]-} ]] || items+=("$item")
	done
}

# run_item NR: in a process of its own, everything it says and its status in out/check/NR.*.
run_item() {
	local nr=$1 words status=0 start=$SECONDS base=$check_dir/$1
	read -ra words <<<"${items[nr]}"
	# In a shell of its own: what exits, or gives up by die, has a status, too.
	("${words[@]:3}") >"$base.out" 2>"$base.err" </dev/null || status=$?
	echo "$((SECONDS - start))" >"$base.time"
	echo "$status" >"$base.status"
}

# Text of an item as what KTAP allows inside: results as they are, the rest as diagnostics.
nested() {
	sed -E '/^ *(KTAP version|TAP version|1\.\.[0-9]|(not )?ok |#)/!s/^/# /;s/^/    /' "$1"
}

# print_item NR: the outer line is the verdict.
print_item() {
	local base=$check_dir/$1 words status reason="" run_dir word
	read -ra words <<<"${items[$1]}"
	status=$(cat "$base.status" 2>/dev/null || echo 1)
	if grep -qsE '^(KTAP|TAP) version' "$base.out"; then
		nested "$base.out"
	elif ((status != 0 && status != EXIT_SKIP)); then
		tail -n 40 "$base.out" | sed 's/^/# /'
	fi
	run_dir=$GMEM_OUT/runs/check-${words[4]-}-${words[5]-}-${words[6]-}
	if ((status == EXIT_SKIP)); then
		reason=$(cat "$base.err" "$base.out" | grep -m1 -ioE '(SKIP|skipping).*' || tail -n 1 "$base.out")
	elif ((status)); then
		tail -n 40 "$base.err" | sed 's/^/# /'
		[[ ${words[3]} != run_test || ! -f $run_dir/console ]] || echo "# console: $run_dir/console"
		echo "# again: ./gmem check ${words[2]//:/ }"
	elif [[ ${words[3]} == run_test && -f $run_dir/summary ]]; then
		sed 's/^/# /' "$run_dir/summary"
	fi
	ktap_result "$status" "${words[1]}" "$reason"
	case $status in
	0) word=passed ;;
	"$EXIT_SKIP") word=skipped ;;
	*) word=FAILED ;;
	esac
	note "$word ${words[1]} ($(cat "$base.time" 2>/dev/null || echo 0) s)"
}

# Those that boot machines may share the time, the rest has it alone.
may_overlap() {
	[[ ${items[$1]} == *" run_test "* ]]
}

# run_items JOBS: start them in order, print them in order.
run_items() {
	local jobs=$1 nr printed=0 running=0
	for ((nr = 0; nr < ${#items[@]}; nr++)); do
		while ((running >= jobs)) || { ((running)) && ! may_overlap "$nr"; }; do
			wait -n || :
			running=$((running - 1))
			print_ready
		done
		run_item "$nr" &
		running=$((running + 1))
		may_overlap "$nr" || { wait || :; running=0; }
		print_ready
	done
	wait || :
	# Whatever ended without leaving a status, e.g. because it was killed, has failed.
	for ((nr = 0; nr < ${#items[@]}; nr++)); do
		[[ -f $check_dir/$nr.status ]] || {
			echo "ended without a status" >>"$check_dir/$nr.err"
			echo "$EXIT_FAIL" >"$check_dir/$nr.status"
		}
	done
	print_ready
}

# A level of which everything was skipped has tested nothing: that is no pass.
every_level_tested() {
	local nr words
	declare -A tested=()
	for ((nr = 0; nr < ${#items[@]}; nr++)); do
		read -ra words <<<"${items[nr]}"
		: "${tested[${words[0]}]:=}"
		[[ $(cat "$check_dir/$nr.status") == "$EXIT_SKIP" ]] || tested[${words[0]}]=yes
	done
	for nr in "${!tested[@]}"; do
		[[ ${tested[$nr]} ]] || { echo "level $nr: everything was skipped"; return 1; }
	done
}

print_ready() {
	while ((printed < ${#items[@]})) && [[ -f $check_dir/$printed.status ]]; do
		print_item "$printed"
		printed=$((printed + 1))
	done
}
