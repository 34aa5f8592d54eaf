# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Tables and plots of documents, made from the results of benchmarks. A table stands between two
# markers, so that the command can replace it.

use bench bench-tables packages

packages[plot]="gnuplot-nox"

# A document, the form of its table, and how its markers begin and end.
readme=$GMEM_TOP/README.md
guestmem_rst=$GMEM_TOP/Documentation/mm/guestmem.rst
plots=$GMEM_TOP/Documentation/mm

# replace_block FILE BEGIN END: replace all between two lines of a file by stdin.
replace_block() {
	local file=$1 new
	if [[ $(grep -cxF -e "$2" -e "$3" "$file") != 2 ]]; then
		note "$file lacks the markers '$2', '$3'"
		return "$EXIT_FAIL"
	fi
	new=$(mktemp) || return
	{
		awk -v begin="$2" '{ print } $0 == begin { exit }' "$file"
		cat
		awk -v end="$3" '$0 == end { found = 1 } found' "$file"
	} >"$new" || return
	# The document keeps its mode.
	cat "$new" >"$file"
	rm "$new"
}

# bench_citable: fail if the results are not those that a document may quote.
bench_citable() {
	local file status=0
	while read -r file; do
		awk -F '\t' '$1 == "run" && ($2 < 2 || $3 != "") { exit 1 }' "$file" ||
			{ note "${file##*/}: is --quick, or has one run only"; status=$EXIT_FAIL; }
	done < <(bench_files)
	return "$status"
}

bench_measured_with() {
	echo "Measured by \`./gmem bench\`, written by \`./gmem bench --readme\`:"
	bench_header | sed '$!s/$/,/;$s/$/./'
}

readme_block() {
	local goals
	goals=$(bench_goals md) || return
	printf '\n%s\n\n%s\n\n%s\n\n' "$goals" "$bench_goals_note" "$(bench_measured_with)"
}

# memory_table: print the memory for a GiB by the number of shared pages, in reST.
memory_table() {
	awk -F '\t' '
	BEGIN { print ".. list-table:: Memory for 1 GiB of which pages are shared\n   :header-rows: 1\n" }
	function cells(text,    part, i, n) {
		n = split(text, part, "\t")
		for (i = 1; i <= n; i++)
			printf "   %s %s\n", i == 1 ? "* -" : "  -", part[i]
	}
	$1 == "section" && match($2, /^[^:]*/) {
		kind = substr($2, 1, RLENGTH)
		shared = $2
		gsub(/[^0-9]/, "", shared)
		shared = $2
		sub(/^.*GiB, /, "", shared)
		sub(/ .*/, "", shared)
		order[++nr] = kind "\t" shared
	}
	$1 == "row" {
		if (!($2 in column)) { column[$2]; title[++columns] = $2 }
		value[kind "\t" shared, $2] = $3
	}
	END {
		text = "pages of\tshared pages"
		for (c = 1; c <= columns; c++) text = text "\t" title[c]
		cells(text)
		for (i = 1; i <= nr; i++) {
			text = order[i]
			for (c = 1; c <= columns; c++) text = text "\t" value[order[i], title[c]]
			cells(text)
		}
	}
	' "$bench_out/memory.ours"
}

# plot_figures: print the directives for the plots, in reST.
plot_figures() {
	local name
	for name in growth memory contention; do
		printf '.. kernel-figure:: guestmem-%s.svg\n   :alt: %s\n\n' "$name" "$name"
	done
}

rst_block() {
	local goals
	goals=$(bench_goals rst) || return
	printf '\n%s\n\n%s\n\n%s\n\n' "$goals" "$bench_goals_note" "$(memory_table)"
	plot_figures
	printf '%s\n\n' "$(bench_measured_with | sed 's/[`]/&&/g')"
}

# series_of FILE SECTION_REGEX ROW_REGEX: print "X Y" of rows, X being the number at the beginning
# of the row's title.
series_of() {
	awk -F '\t' -v section="$2" -v row="$3" '
	$1 == "section" { on = $2 ~ section }
	$1 == "row" && on && $2 ~ row { print $2 + 0, $3 }
	' "$1"
}

# memory_series KIND: print the number of shared pages and the memory that they take.
memory_series() {
	awk -F '\t' -v kind="$1" '
	$1 == "section" { on = index($2, kind ":") == 1; x = $2; sub(/^.*GiB, /, "", x) }
	$1 == "row" && on && $2 == "all of it, KiB" { print x + 0, $3 }
	' "$bench_out/memory.ours"
}

# plot FILE TITLE XLABEL YLABEL EXTRA: plot the data of $data, whose series have names, as FILE.
# Lines have no spaces at their end, as in any other file here.
plot() {
	local file=$1 kind args=() list=""
	for kind in "${kinds[@]}"; do
		[[ ! $list ]] || list+=", "
		list+="'$data/$kind' using (\$1 == 0 ? zero : \$1):2 with linespoints title '$kind'"
	done
	args=(
		"set terminal svg size 640,400 font 'sans-serif,12' background 'white' noenhanced"
		"set output '$file.part'" "set title '$2'" "set xlabel '$3'" "set ylabel '$4'"
		"set key outside right" "set grid" "zero = 0.5" "$5" "plot $list"
	)
	printf '%s\n' "${args[@]}" | gnuplot || return
	sed 's/[[:space:]]*$//' "$file.part" >"$file" && rm -f "$file.part"
}

bench_plots() {
	local data kinds=(4K 2M 1G) kind shared="pages that are shared already (left: none)"
	need plot
	data=$(mktemp -d) || return
	for kind in "${kinds[@]}"; do
		series_of "$bench_out/growth.ours" "^$kind: mean" ": to shared" >"$data/$kind"
	done
	plot "$plots/guestmem-growth.svg" "One more page of 1 GiB to shared, mean" "$shared" \
		"instructions" "set logscale xy" || return
	for kind in "${kinds[@]}"; do memory_series "$kind" >"$data/$kind"; done
	plot "$plots/guestmem-memory.svg" "Kernel memory for 1 GiB, all touched by the guest" \
		"pages that are shared (left: none)" "KiB" "set logscale xy" || return
	for kind in "${kinds[@]}"; do
		series_of "$bench_out/contention.ours" "^$kind: .*next to" ": conversions" >"$data/$kind"
	done
	plot "$plots/guestmem-contention.svg" "vCPUs convert pages next to each other, one processor" \
		"vCPUs" "conversions in 100 M instructions" "set yrange [0:*]" || return
	rm -r "$data"
}

# bench_documents: write all tables and plots.
bench_documents() {
	local text
	bench_citable || return
	text=$(readme_block) || return
	replace_block "$readme" "<!-- bench: begin -->" "<!-- bench: end -->" <<<"$text"$'\n' || return
	text=$(rst_block) || return
	replace_block "$guestmem_rst" ".. bench: begin" ".. bench: end" <<<"$text"$'\n' || return
	bench_plots
}
