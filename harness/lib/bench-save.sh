# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Results of benchmarks as one file, to be kept and to be compared with. At its top is, in lines
# "# KEY: VALUE", what the numbers depend on; then a line for each figure, separated by tabs:
# BENCHMARK SIDE SECTION ROW VALUE LOWEST HIGHEST, and how far the runs are apart, in percent.

use bench

# bench_tsv: print the last results of all benchmarks.
bench_tsv() {
	local files
	mapfile -t files < <(bench_files)
	((${#files[@]})) || { note "nothing has been measured"; return "$EXIT_FAIL"; }
	bench_header | sed 's/^/# /'
	awk -F '\t' -v OFS='\t' '
	FNR == 1 {
		side = FILENAME
		sub(/^.*\//, "", side)
		bench = side
		sub(/\..*/, "", bench)
		sub(/^[^.]*\./, "", side)
	}
	# The header is written when all files have been seen.
	$1 == "run" {
		if (least == "" || $2 < least) least = $2
		how[$3]
		commit[$4]
	}
	$1 == "section" { section = $2 }
	$1 == "row" { line[++nr] = bench OFS side OFS section OFS $2 OFS $3 OFS $4 OFS $5 OFS $6 }
	END {
		printf "# runs: %d\n", least
		printf "# commit:"
		for (id in commit) printf " %s", id
		printf "\n# options:"
		for (args in how) printf " %s", args == "" ? "none" : args
		printf "\n"
		for (i = 1; i <= nr; i++) print line[i]
	}
	' "${files[@]}"
}

# bench_save FILE: keep the last results.
bench_save() {
	local part=$1.$BASHPID
	mkdir -p "$(dirname "$1")"
	bench_tsv >"$part" || { rm -f "$part"; return "$EXIT_FAIL"; }
	mv "$part" "$1"
	note "saved $(grep -vc '^#' "$1") figures as $1"
}

# bench_saved_name: print where results are saved if no file is given: one file for each commit.
bench_saved_name() {
	echo "$bench_out/$(bench_commit).tsv"
}

# bench_reference REF: print the path of saved results: a file, or a commit's, in out/bench.
bench_reference() {
	local file
	for file in "$1" "$bench_out/$1.tsv"; do
		[[ ! -f $file ]] || { echo "$file"; return; }
	done
	note "no saved results '$1' (a file, or a commit that has been saved in ${bench_out#"$GMEM_TOP"/})"
	return "$EXIT_FAIL"
}

# header_of FILE KEY: print a line of the header.
header_of() {
	sed -n "s/^# $2: //p" "$1"
}

# comparable OLD NEW: fail if the numbers depend on different things.
comparable() {
	local key old new status=0
	for key in compiler config machine options; do
		old=$(header_of "$1" "$key")
		new=$(header_of "$2" "$key")
		[[ $old && $old == "$new" ]] ||
			{ note "not to be compared: the $key was '$old', and is '$new'"; status=$EXIT_FAIL; }
	done
	return "$status"
}

# bench_compare OLD NEW: print each figure of both, and the difference. A difference means something
# if it is larger than the floor: as far as runs of the same kernel were apart, or the values of
# one run, whichever is more.
bench_compare() {
	comparable "$1" "$2" || return
	printf '%s -> %s; runs: %s, %s\n' "$(header_of "$1" commit)" "$(header_of "$2" commit)" \
		"$(header_of "$1" runs)" "$(header_of "$2" runs)"
	awk -F '\t' '
	function max(a, b) { return a > b ? a : b }
	function floor_of() { return max($8, $5 ? 100 * ($7 - $6) / $5 : 0) }
	function line(title, a, b, diff, floor, mark) {
		title = sprintf("  %-58s%14s%14s%10s%9s %s", title, a, b, diff, floor, mark)
		sub(/ +$/, "", title)
		print title
	}
	BEGIN { line("", "before", "now", "difference", "floor", "") }
	/^#/ { next }
	{ key = $1 FS $2 FS $3 FS $4 }
	NR == FNR { old[key] = $5; floor[key] = floor_of(); next }
	$1 FS $2 FS $3 != section {
		section = $1 FS $2 FS $3
		print $1 "." $2 ": " $3
	}
	!(key in old) { line($4, "-", $5, "new", "", ""); next }
	{
		low = max(floor[key], floor_of())
		diff = old[key] ? 100 * ($5 - old[key]) / old[key] : ($5 ? 100 : 0)
		beyond = (diff < 0 ? -diff : diff) > low
		nr++
		if (beyond) nr_beyond++
		line($4, old[key], $5, sprintf("%+.2f%%", diff), sprintf("%.2f%%", low), beyond ? "*" : "")
		delete old[key]
	}
	END {
		for (key in old) lost++
		printf "%d figures, %d beyond the floor (*), %d not measured again\n", nr, nr_beyond, lost
	}
	' "$1" "$2"
}

# bench_against REF: compare the last results with those of a file or of another commit.
bench_against() {
	local old new=$bench_out/now.tsv
	old=$(bench_reference "$1") || return
	bench_tsv >"$new" || return
	bench_compare "$old" "$new"
}
