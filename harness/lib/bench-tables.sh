# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Tables of benchmarks, made from out/bench/NAME.SIDE (see bench.sh).

use bench

# Functions of all tables. The spread is how far lowest and highest are apart, in percent of the
# median.
bench_awk='
	function number(n,    text) {
		if (n == "") return "-"
		text = sprintf("%.0f", n)
		while (match(text, /[0-9][0-9][0-9][0-9]($|,)/))
			text = substr(text, 1, RSTART) "," substr(text, RSTART + 1)
		return text
	}
	function spread(n, low, high) {
		if (n == "" || n == 0) return ""
		return sprintf("%.1f%%", 100 * (high - low) / n)
	}
	# Set bench and side to those of the file that is read.
	function which_side(    name) {
		name = FILENAME
		sub(/^.*\//, "", name)
		bench = side = name
		sub(/\..*/, "", bench)
		sub(/^[^.]*\./, "", side)
	}
'

# bench_print NAME: print all about a benchmark.
bench_print() {
	printf '%s\n\n%s\n\n' "$1: $DESCRIPTION" "$INTRO"
	if ((${#column[@]} == 2)) && [[ ! $bench_here ]]; then
		bench_table_sides "$1"
	else
		bench_table_list "$1"
	fi
}

# bench_table_list NAME: print one machine after the other, in the program's order. Figures that
# others have measured are printed as they were written; for the ratio, "157.07 M" is a number.
bench_table_list() {
	local files=() side
	for side in "${sides[@]}"; do
		[[ ! -e $bench_out/$1.$side ]] || files+=("$bench_out/$1.$side")
	done
	[[ ! $quoted ]] || files=("$GMEM_TOP/bench/$1.quoted" "${files[@]}")
	awk -F '\t' -v quoted="$quoted" -v partly="$bench_here" "$bench_awk"'
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
		if (partly) exit
		for (what in theirs) {
			sub(SUBSEP, ": ", what)
			print "gmem: quoted, but not measured: " what >"/dev/stderr"
			lost = 1
		}
		exit lost
	}
	' "${files[@]}"
}

# bench_table_sides NAME: print both sides side by side, in the order of the second one.
bench_table_sides() {
	local left=${sides[0]} right=${sides[1]}
	awk -F '\t' -v left="$left" -v left_title="${column[$left]}" -v right_title="${column[$right]}" \
		"$bench_awk"'
	function line(title, a, as, b, bs, ratio) {
		title = sprintf("  %-46s%15s %7s%15s %7s%8s", title, a, as, b, bs, ratio)
		sub(/ +$/, "", title)
		print title
	}
	FNR == 1 { which_side(); at = side == left }
	$1 == "section" { section = $2 }
	$1 == "section" && !(section in known) { known[section]; order[++nr] = section SUBSEP }
	$1 == "row" && !((section, $2) in known) { known[section, $2]; order[++nr] = section SUBSEP $2 }
	$1 == "row" {
		value[at, section, $2] = $3
		range[at, section, $2] = spread($3, $4, $5)
	}
	END {
		line("", left_title, "", right_title, "", "")
		line("instructions, median and spread", how[1], "", how[0], "", "ratio")
		for (i = 1; i <= nr; i++) {
			split(order[i], part, SUBSEP)
			if (part[2] == "") {
				print part[1]
				continue
			}
			a = value[1, order[i]]
			b = value[0, order[i]]
			line(part[2], number(a), range[1, order[i]], number(b),
			     range[0, order[i]], a > 0 && b != "" ? sprintf("%.2f", b / a) : "")
		}
	}
	$1 == "how" { how[at] = $2 }
	' "$bench_out/$1.$right" "$bench_out/$1.$left"
}

# bench_agreement: say how many rows are the same in all runs, and which are not.
bench_agreement() {
	local files
	mapfile -t files < <(bench_files)
	((${#files[@]})) || return 0
	awk -F '\t' "$bench_awk"'
	FNR == 1 { which_side() }
	$1 == "run" && $2 < 2 { once = once " " bench "." side }
	$1 == "section" { section = $2 }
	$1 == "row" { nr++ }
	$1 == "row" && $6 > 1 {
		text[++apart] = sprintf("  %6.1f%%  %s.%s: %s: %s (%s)", $6, bench, side, section, $2, number($3))
	}
	END {
		printf "%d of %d figures are the same within 1%% in all runs.\n", nr - apart, nr
		if (apart) print "These are not:"
		for (i = 1; i <= apart; i++) print text[i]
		if (once != "") print "Run once only, so that nothing is known of the difference:" once
	}
	' "${files[@]}"
}

# bench_goals [md|rst]: print the table of figures to reach, bench/figures.goals, with ours in it.
# For a document, it is the figures alone.
bench_goals() {
	local files
	mapfile -t files < <(bench_files)
	awk -F '\t' -v form="${1:-text}" "$bench_awk"'
	function row(work, theirs, before, reach, aim, ours, result) {
		if (form == "md")
			printf "| %s | %s | %s |\n", work, theirs, ours
		if (form == "rst")
			printf "   * - %s\n     - %s\n     - %s\n", work, theirs, ours
		if (form != "text")
			return
		printf "  %-52s%18s%14s%15s%13s%15s  %s\n", work, theirs, before, reach, aim, ours, result
	}
	# Returns the sum of the terms of this line, or "" if one of them is not measured.
	function sum(    i, sign, key, total) {
		for (i = 6; i <= NF; i++) {
			sign = substr($i, 1, 1) == "-" ? -1 : 1
			key = substr($i, 2)
			if (!(key in value)) {
				missing[++nr_missing] = key
				return ""
			}
			total += sign * value[key]
		}
		return total < 0 ? 0 : total
	}
	# Show a limit as a document would have it: numbers with commas.
	function limit(text) { return text ~ /^[0-9]+$/ ? number(text) : text }
	FNR == 1 { which_side() }
	$1 == "section" && FILENAME !~ /\.goals$/ { section = $2 }
	$1 == "row" && FILENAME !~ /\.goals$/ { value[bench "." side "|" section "|" $2] = $3 }
	FILENAME ~ /\.goals$/ && FNR == 1 {
		if (form == "rst")
			print ".. list-table::\n   :header-rows: 1\n"
		row("work", "others (quoted)", "before", "reach", "aim", "ours", "")
		if (form == "md")
			row("---", "---:", "", "", "", "---:", "")
	}
	FILENAME ~ /\.goals$/ && !/^#/ && NF >= 6 {
		total = sum()
		result = "not measured"
		if (total != "")
			result = total <= $5 ? "aim" : total <= $4 ? "reached" : "NOT REACHED"
		row($1, limit($2), limit($3), limit($4), limit($5), number(total), result)
	}
	END {
		for (i = 1; i <= nr_missing; i++)
			print "gmem: not measured: " missing[i] >"/dev/stderr"
		exit nr_missing > 0
	}
	' ${files[@]+"${files[@]}"} "$GMEM_TOP/bench/figures.goals"
}

# The text below that table, wherever it is printed.
bench_goals_note='Instructions of the caller, on one processor, x86_64, default configuration, struct pages of huge
pages shared (HVO) unless the row says otherwise; memory in KiB. The figures of others are quoted,
not measured here: the RFC "1G page support for guest_memfd" on the same base, or Linux 7.3.4.'
