# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Benchmarks: bench/NAME.bench sets
#
#   DESCRIPTION, INTRO     a line, and the text above the table
#   program                bench/PROGRAM.c, the same everywhere
#   sides=(ours)           the machines it runs in: base is the unpatched kernel, all others
#                          are our kernel
#   append=()              for the boot line of our kernel
#   append_for[SIDE]       one more for the boot line of this side
#   how[SIDE]              the way that the program must find there ("how", in its first line)
#   column[SIDE]           if there are two sides, and if they are to stand side by side: what
#                          stands above them
#   hugepages, mem         of the machine (as ./gmem run)
#   timeout                seconds without -icount, on an idle host
#   quoted                 owner of the figures in bench/NAME.quoted, which stand next to ours
#
# The program counts instructions (-icount, one processor): no time, no cache, no TLB, but the
# same number every time. It prints tab-separated lines: "how WAY", "section TITLE",
# "row TITLE MEDIAN LOWEST HIGHEST", and at its end "complete".
#
# A machine is booted several times: out/bench/NAME.SIDE.RUN is what the program says. Together
# they are out/bench/NAME.SIDE, where a row has the mean of the medians, the lowest and the highest
# of all, and how far the medians are apart, in percent of the mean. Its line "run" has the number
# of runs, what the program was told (--quick), and the commit.

use kernel packages selftests timeouts tree

bench_out=$GMEM_OUT/bench
bench_here=""		# run on this machine, not in an emulated one
bench_jobs=$(nproc)	# machines at the same time

bench_names() {
	(cd "$GMEM_TOP/bench" && find . -name '*.bench' -printf '%f\n' | sed 's/\.bench$//' | sort)
}

load_bench() {
	[[ -f $GMEM_TOP/bench/$1.bench ]] ||
		usage_error "no benchmark '$1' (bench has: $(bench_names | tr '\n' ' '))"
	unset append_for how column
	declare -gA append_for=() how=() column=()
	DESCRIPTION="" INTRO="" program=$1 sides=("ours") append=() hugepages="" mem=""
	timeout=600 quoted=""
	# shellcheck source=/dev/null
	. "$GMEM_TOP/bench/$1.bench"
}

bench_build() {
	local make=(make -C "$GMEM_TOP/bench" O="$bench_out/bin")
	tree_ready "" || return
	kernel_env x86_64
	need build
	locked "$GMEM_OUT/selftests-x86_64.lock" selftest_headers || return
	make+=(KHDR="$tree/build-headers-x86_64/usr/include")
	[[ $GMEM_DRY ]] || ! "${make[@]}" -q >/dev/null 2>&1 || return 0
	step "$GMEM_OUT/log/bench.log" "building the benchmarks" "${make[@]}"
}

# bench_side NAME SIDE RUN ARG...: run one machine, with its output in out/bench/NAME.SIDE.RUN.
bench_side() {
	local name=$1 side=$2 out=$bench_out/$1.$2.$3 entry args
	local opt_arch=x86_64 opt_variant=default opt_icount=1
	args=(--icount --id "bench-$1-$2-$3" --timeout "$(scaled "$timeout")"
		--file "$bench_out/bin/$program:/")
	shift 3
	[[ ! $mem ]] || args+=(--mem "$mem")
	[[ ! $hugepages ]] || args+=(--hugepages "$hugepages")
	if [[ $side == base ]]; then
		args+=(--vanilla)
	else
		for entry in ${append[@]+"${append[@]}"} ${append_for[$side]-}; do
			args+=(--append "$entry")
		done
	fi
	if [[ $GMEM_DRY && ! -e $bench_out/bin/$program ]]; then
		# QEMU's line needs the program, which is not built yet: print the line of ./gmem
		# run.
		quote "$GMEM_TOP/gmem" run "${args[@]}" -- "/$program" "$@"
		return
	elif [[ $GMEM_DRY ]]; then
		"$GMEM_TOP/gmem" run "${args[@]}" -- "/$program" "$@"
		return
	fi
	rm -f "$out"
	"$GMEM_TOP/gmem" run "${args[@]}" -- "/$program" "$@" >"$out.part" </dev/null || return
	mv "$out.part" "$out"
}

# bench_side_here NAME RUN ARG...: run the program on this machine. Prints the side that this is.
bench_side_here() {
	local name=$1 run=$2 part=$bench_out/$1.here found side
	shift 2
	"$bench_out/bin/$program" "$@" >"$part" </dev/null || return
	found=$(sed -n 's/^how\t//p' "$part")
	for side in "${sides[@]}"; do
		if [[ $found == "${how[$side]-}" && $side != base ]]; then
			mv "$part" "$bench_out/$name.$side.$run"
			echo "$side"
			return
		fi
	done
	note "$name: is '$found', and that is none of: ${sides[*]}"
	return "$EXIT_FAIL"
}

# bench_merge NAME SIDE RUNS ARG...: make one table of several runs. They must have the same rows.
bench_merge() {
	local out=$bench_out/$1.$2 runs=$3 files=() run
	for ((run = 1; run <= runs; run++)); do files+=("$out.$run"); done
	shift 3
	rm -f "$out"
	awk -F '\t' -v OFS='\t' -v runs="$runs" -v args="$*" -v commit="$(bench_commit)" '
	FNR == 1 { nth++ }
	$1 == "section" { section = $2 }
	$1 == "section" && nth == 1 { line[++nr] = $0 }
	$1 == "how" && nth == 1 { line[++nr] = $0; line[++nr] = "run" OFS runs OFS args OFS commit }
	$1 == "row" {
		key = section SUBSEP $2
		if (nth == 1)
			line[++nr] = key
		if (!(key in times) || $4 < low[key]) low[key] = $4
		if (!(key in times) || $5 > high[key]) high[key] = $5
		if (!(key in times) || $3 < least[key]) least[key] = $3
		if (!(key in times) || $3 > most[key]) most[key] = $3
		times[key]++
		sum[key] += $3
	}
	$1 == "complete" { complete++ }
	END {
		for (i = 1; i <= nr; i++) {
			if (!(line[i] in times)) {
				print line[i]
				continue
			}
			key = line[i]
			mean = sum[key] / runs
			split(key, part, SUBSEP)
			printf "row\t%s\t%.0f\t%.0f\t%.0f\t%.3f\n", part[2], mean, low[key], high[key],
				mean ? 100 * (most[key] - least[key]) / mean : 0
		}
		for (key in times)
			if (times[key] != runs) exit 1
		if (complete != runs) exit 1
		print "complete"
	}
	' "${files[@]}" >"$out.part" || { note "${out##*/}: the runs have different rows"; return "$EXIT_FAIL"; }
	mv "$out.part" "$out"
}

# bench_runs NAME SIDE RUNS ARG...: run a machine several times, as many at once as bench_jobs says:
# the counts are the same however busy the host is.
bench_runs() {
	local name=$1 side=$2 runs=$3 run pid pids=() failed=0
	shift 3
	for ((run = 1; run <= runs && !failed; run++)); do
		bench_side "$name" "$side" "$run" "$@" &
		pids+=($!)
		# Wait for a batch of machines, or for the last ones.
		((run % bench_jobs == 0 || run == runs)) || continue
		for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
		pids=()
	done
	return "$failed"
}

# bench_measure NAME RUNS ARG...: run all machines of a benchmark, and merge their runs.
bench_measure() {
	local name=$1 runs=$2 side failed=""
	shift 2
	load_bench "$name"
	if [[ $bench_here ]]; then
		bench_measure_here "$name" "$runs" "$@"
		return
	fi
	for side in "${sides[@]}"; do
		bench_runs "$name" "$side" "$runs" "$@" || { failed+=" $side"; continue; }
		[[ $GMEM_DRY ]] || bench_merge "$name" "$side" "$runs" "$@" || failed+=" $side"
	done
	[[ ! $failed ]] || { note "$name: failed on$failed"; return "$EXIT_FAIL"; }
}

bench_measure_here() {
	local name=$1 runs=$2 run side
	shift 2
	for ((run = 1; run <= runs; run++)); do
		side=$(bench_side_here "$name" "$run" "$@") || { note "$name: failed"; return "$EXIT_FAIL"; }
	done
	bench_merge "$name" "$side" "$runs" "$@"
}

# bench_complete NAME: true if all sides ran to their end, in the way that was to be measured. On
# this machine, there can be one of them only.
bench_complete() {
	local side found file some=""
	for side in "${sides[@]}"; do
		file=$bench_out/$1.$side
		if [[ ! -e $file && $bench_here ]]; then continue; fi
		[[ $(tail -qn 1 "$file" 2>/dev/null) == complete ]] ||
			{ note "$1, $side: did not run to its end"; return "$EXIT_FAIL"; }
		found=$(sed -n 's/^how\t//p' "$file")
		[[ $found == "${how[$side]-}" ]] ||
			{ note "$1, $side: is '$found', not '${how[$side]-}'"; return "$EXIT_FAIL"; }
		some=1
	done
	[[ $some ]] || { note "$1: not measured"; return "$EXIT_FAIL"; }
}

# bench_files: print the results that are there, of all benchmarks.
bench_files() {
	local name side
	for name in $(bench_names); do
		load_bench "$name"
		for side in "${sides[@]}"; do
			[[ $(tail -qn 1 "$bench_out/$name.$side" 2>/dev/null) != complete ]] ||
				echo "$bench_out/$name.$side"
		done
	done
}

# bench_header: print what the numbers depend on, "KEY: VALUE" a line.
bench_header() {
	local config
	kernel_env x86_64
	config=$GMEM_OUT/linux/build-x86_64-default/.config
	if [[ $bench_here ]]; then
		echo "compiler: $(sed 's/^.*(\(.*gcc[^)]*)[^)]*\)).*/\1/' /proc/version)"
		echo "config: $({ zcat /proc/config.gz 2>/dev/null || uname -a; } | bench_config)"
		echo "machine: $(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1); ticks of the TSC"
	else
		echo "compiler: $("${cross}gcc" --version | head -n 1)"
		echo "config: $(bench_config <"$config")"
		echo "machine: $("$qemu" --version | head -n 1); instructions"
	fi
}

# bench_commit: print the commit of this repository, and whether it is all of that.
bench_commit() {
	local dirty=""
	git -C "$GMEM_TOP" diff-index --quiet HEAD 2>/dev/null || dirty="-dirty"
	echo "$(git -C "$GMEM_TOP" rev-parse --short HEAD)$dirty"
}

# bench_config: print a hash of a kernel configuration. The compiler has a line of its own.
bench_config() {
	grep -E '^(CONFIG_|# CONFIG_)' | grep -vE '^CONFIG_(CC|GCC|LD|AS|CLANG|LLD|RUSTC|PAHOLE)_?[A-Z_]*VERSION' |
		sort | hash_of
}
