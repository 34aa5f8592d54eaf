# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Benchmarks: bench/NAME.bench sets
#
#   DESCRIPTION, INTRO     a line, and the text above the table
#   program                bench/PROGRAM.c, the same everywhere
#   sides=(base ours)      the machines it runs in: base is the unpatched kernel, all others
#                          are our kernel
#   append=()              for the boot line of our kernel
#   append_for[SIDE]       one more for the boot line of this side
#   how[SIDE]              the way that the program must find there ("how", in its first line)
#   hugepages, mem         of the machine (as ./gmem run)
#   timeout                seconds without -icount, on an idle host
#   quoted                 owner of the figures in bench/NAME.quoted, which stand next to ours
#
# The program counts instructions (-icount, one processor): no time, no cache, no TLB, but the
# same number every time. It prints tab-separated lines: "how WAY", "section TITLE",
# "row TITLE MEDIAN LOWEST HIGHEST", and at its end "complete".

use kernel packages selftests timeouts tree

bench_out=$GMEM_OUT/bench

bench_names() {
	(cd "$GMEM_TOP/bench" && find . -name '*.bench' -printf '%f\n' | sed 's/\.bench$//' | sort)
}

load_bench() {
	[[ -f $GMEM_TOP/bench/$1.bench ]] ||
		usage_error "no benchmark '$1' (bench has: $(bench_names | tr '\n' ' '))"
	unset append_for how
	declare -gA append_for=() how=()
	DESCRIPTION="" INTRO="" program=$1 sides=(base ours) append=() hugepages="" mem=""
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

# bench_side NAME SIDE ARG...: run one machine, with its output in out/bench/NAME.SIDE.
bench_side() {
	local name=$1 side=$2 entry args
	local opt_arch=x86_64 opt_variant=default opt_icount=1
	args=(--icount --id "bench-$1-$2" --timeout "$(scaled "$timeout")"
		--file "$bench_out/bin/$program:/")
	shift 2
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
	rm -f "$bench_out/$name.$side"
	"$GMEM_TOP/gmem" run "${args[@]}" -- "/$program" "$@" \
		>"$bench_out/$name.$side.part" </dev/null || return
	mv "$bench_out/$name.$side.part" "$bench_out/$name.$side"
}

# bench_complete NAME: true if all sides ran to their end, in the way that was to be measured.
bench_complete() {
	local side found file
	for side in "${sides[@]}"; do
		file=$bench_out/$1.$side
		[[ $(tail -qn 1 "$file" 2>/dev/null) == complete ]] ||
			{ note "$1, $side: did not run to its end"; return "$EXIT_FAIL"; }
		found=$(sed -n 's/^how\t//p' "$file")
		[[ $found == "${how[$side]-}" ]] ||
			{ note "$1, $side: is '$found', not '${how[$side]-}'"; return "$EXIT_FAIL"; }
	done
}

# Print the tools and the configuration that the numbers depend on, besides the source.
bench_tools() {
	kernel_env x86_64
	printf '%s; %s; harness/variants/default.config\n' "$("$qemu" --version | head -n 1)" \
		"$("${cross}gcc" --version | head -n 1)"
}

# Functions of all tables. The spread is how far lowest and highest are apart, in percent of the
# median.
bench_awk='
	function number(n,    text, negative) {
		if (n == "") return "-"
		text = sprintf("%d", n)
		while (match(text, /[0-9][0-9][0-9][0-9]($|,)/))
			text = substr(text, 1, RSTART) "," substr(text, RSTART + 1)
		return text
	}
	function spread(n, low, high) {
		if (n == "" || n == 0) return ""
		return sprintf("%.1f%%", 100 * (high - low) / n)
	}
'

bench_table() {
	case ${sides[*]} in
	"base ours") bench_table_sides "$1" ;;
	*) bench_table_list "$1" ;;
	esac
}

# bench_table_list NAME: print one machine after the other, in the program's order. Figures that
# others have measured are printed as they were written; for the ratio, "157.07 M" is a number.
bench_table_list() {
	local files=() side
	for side in "${sides[@]}"; do files+=("$bench_out/$1.$side"); done
	[[ ! $quoted ]] || files=("$GMEM_TOP/bench/$1.quoted" "${files[@]}")
	awk -F '\t' -v quoted="$quoted" "$bench_awk"'
	function value(text) {
		return text ~ /B$/ ? 0 : text * (text ~ /M$/ ? 1e6 : text ~ /k$/ ? 1e3 : 1)
	}
	function line(title, a, as, b, ratio) {
		title = sprintf("  %-54s%15s %7s%14s %7s", title, a, as, b, ratio)
		sub(/ +$/, "", title)
		print title
	}
	BEGIN {
		line("", "in this tree", "", quoted, "")
		line("instructions, median and spread", "", "", "", quoted == "" ? "" : "ratio")
	}
	FILENAME ~ /\.quoted$/ && !/^#/ && NF == 3 { theirs[$1, $2] = $3 }
	FILENAME ~ /\.quoted$/ { next }
	$1 == "section" { section = $2; print section }
	$1 == "row" {
		them = theirs[section, $2]
		delete theirs[section, $2]
		line($2, number($3), spread($3, $4, $5), them,
		     value(them) > 0 ? sprintf("%.3f", $3 / value(them)) : "")
	}
	END {
		for (what in theirs) {
			sub(SUBSEP, ": ", what)
			print "gmem: quoted, but not measured: " what >"/dev/stderr"
			lost = 1
		}
		exit lost
	}
	' "${files[@]}"
}

# bench_table_sides NAME: print both sides side by side, in the program's order.
bench_table_sides() {
	awk -F '\t' -v base="Linux $BASE_VERSION" "$bench_awk"'
	function line(title, a, as, b, bs, ratio) {
		title = sprintf("  %-46s%15s %7s%15s %7s%8s", title, a, as, b, bs, ratio)
		sub(/ +$/, "", title)
		print title
	}
	$1 == "section" { section = $2 }
	$1 == "section" && !(section in known) { known[section]; order[++nr] = section SUBSEP }
	$1 == "row" && !((section, $2) in known) { known[section, $2]; order[++nr] = section SUBSEP $2 }
	$1 == "row" {
		side = FILENAME ~ /\.base$/ ? "base" : "ours"
		value[side, section, $2] = $3
		range[side, section, $2] = spread($3, $4, $5)
	}
	END {
		line("", base, "", "in this tree", "", "")
		line("instructions, median and spread", how["base"], "", how["ours"], "", "ratio")
		for (i = 1; i <= nr; i++) {
			split(order[i], part, SUBSEP)
			if (part[2] == "") {
				print part[1]
				continue
			}
			a = value["base", order[i]]
			b = value["ours", order[i]]
			line(part[2], number(a), range["base", order[i]], number(b),
			     range["ours", order[i]], a > 0 && b != "" ? sprintf("%.2f", b / a) : "")
		}
	}
	$1 == "how" { how[FILENAME ~ /\.base$/ ? "base" : "ours"] = $2 }
	' "$bench_out/$1.ours" "$bench_out/$1.base"
}
