# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Checks of a change that need no build.

use calls mutants packages series

# our_files PATHSPEC...: print files of this repository, one a line.
our_files() {
	(cd "$GMEM_TOP" && git ls-files -co --exclude-standard -- "$@" |
		while read -r f; do [[ ! -f $f ]] || echo "$f"; done)
}

shell_files() {
	our_files | while read -r f; do
		case $f in
		*.sh | *.test | *.bench | *.conf) [[ $f != harness/configs/* ]] && echo "$f" ;;
		*.c | *.h | *.patch | *.config | *.md | *.rst) ;;
		*) head -c 80 "$GMEM_TOP/$f" | head -n 1 | grep -qE '^#!.*\b(ba)?sh\b' && echo "$f" ;;
		esac
	done | grep -v '^tools/testing/selftests/' || :
}

# The shell files of the harness, whose variables belong to all of them.
program_files() {
	shell_files | grep -E '^(gmem|base\.conf|bench/.*\.bench|harness/(lib|cmd|arch|tests|selftest|mutants)/.*|vmm/test/run(-arm64)?\.sh)$'
}

style_shellcheck() {
	local program status=0
	need style
	cd "$GMEM_TOP" || return
	program=$(program_files)
	shell_files | grep -vxF "$program" | xargs shellcheck -x -S style -e SC1090,SC1091 || status=1
	# These files use each other's variables, see style_variables().
	xargs shellcheck -S style -e SC1090,SC1091,SC2034,SC2154 <<<"$program" || status=1
	return "$status"
}

# Find variables that are set and not used, and the opposite, in the harness as one program.
style_variables() {
	local program=$GMEM_OUT/check/program.sh lines=$GMEM_OUT/check/program.lines files
	need style
	mapfile -t files < <(program_files)
	mkdir -p "${program%/*}"
	(cd "$GMEM_TOP" && awk -v lines="$lines" '
		BEGIN { print "#!/usr/bin/env bash" }
		/^# shellcheck shell=/ { $0 = "#" }
		{ print; print FILENAME ":" FNR >lines }' "${files[@]}") >"$program"
	shellcheck -f gcc -S style -i SC1072,SC1073,SC2034,SC2154 "$program" >"$program.found"
	awk -F: '
		NR == FNR { place[FNR + 1] = $0; next }
		{ line = $2; sub(/^[^:]*:[0-9]+:[0-9]+: /, ""); print place[line] ": " $0 }
	' "$lines" "$program.found" >"$program.text"
	cat "$program.text"
	[[ ! -s $program.text ]]
}

# Find a library whose functions a file calls without a `use`, and libraries that use each other.
style_libs() {
	local found
	found=$(cd "$GMEM_TOP/harness" && awk -v callers="step/locked/ktap_case" '
		BEGIN { gsub("/", "|", callers); callers = "(^|[ \t!])(" callers ") " }
		FNR == 1 {
			file = FILENAME
			lib[file] = "common"
			if (sub(/^lib\//, "", file))
				sub(/\.sh$/, "", file)
		}
		/^use / { for (i = 2; i <= NF; i++) uses[file, $i]; direct[file] = direct[file] substr($0, 4) }
		{ sub(/^[ \t]*#.*/, ""); sub(/[ \t]# .*/, "") }
		match($0, /^[a-z_0-9]+\(\) [({]/) && FILENAME ~ /^lib\// {
			defined[substr($0, 1, index($0, "(") - 1)] = file
		}
		# The patterns of a case are no calls.
		/^[ \t]*[a-z_0-9*]+( \| [a-z_0-9*]+)*\)/ { sub(/^[^)]*\)/, "") }
		{ line[++nr] = $0; where[nr] = file; number[nr] = FNR }
		function calls(text,    rest) {
			# Commands that are given a function to call.
			if (text ~ callers)
				gsub(/ /, ";", text)
			text = ";" text
			gsub(/[ \t;(|&](then|do|else|if|while|until|!|\{) /, ";", text)
			while (match(text, /[;(|&][ \t]*[a-z_0-9]+/)) {
				rest = substr(text, RSTART + RLENGTH)
				name = substr(text, RSTART, RLENGTH)
				gsub(/^[^a-z_0-9]*/, "", name)
				if (name in defined && rest !~ /^[-.\/=[:alnum:]]/)
					call(name)
				text = rest
			}
		}
		function call(name) {
			if (defined[name] != where[n] && defined[name] != "common" &&
			    !((where[n], defined[name]) in uses))
				print "harness, " where[n] ":" number[n] ": calls " name "() without: use " defined[name]
		}
		# Names of all that lead from a library back to it.
		function walk(at, first, path,    list, i, k) {
			k = split(direct[at], list, " ")
			for (i = 1; i <= k; i++) {
				if (list[i] == first)
					print "libraries use each other:" path " " first
				else if (index(path " ", " " list[i] " ") == 0)
					walk(list[i], first, path " " list[i])
			}
		}
		END {
			for (n = 1; n <= nr; n++) calls(line[n])
			for (file in direct) walk(file, file, " " file)
		}' lib/*.sh cmd/* | sort -u)
	echo "$found"
	[[ ! $found ]]
}

style_mutant_tables() {
	mutants_check
}

style_calls() {
	calls_check
}

# style_c DIRS IGNORE: run checkpatch on whole files.
style_c() {
	local files
	# shellcheck disable=SC2086 # a list of words
	files=$(our_files $1 | grep '\.[ch]$')
	[[ $files ]] || return 0
	# shellcheck disable=SC2086
	# Run it outside a tree: in a tree it looks up every file's maintainers, which takes seconds
	# each.
	(cd "$GMEM_TOP" && PATH=/usr/bin:$PATH "$tree/scripts/checkpatch.pl" --no-tree -f -q \
		--strict --show-types --no-summary --max-line-length=100 --ignore "$2" $files)
}

style_checkpatch() {
	local status=0
	need style
	style_c "mm virt include arch lib" FILE_PATH_CHANGES || status=1
	# User space has no kstrto*(), no u8, no __printf(), and its own way with signal flags.
	style_c "harness vmm bench tools" "FILE_PATH_CHANGES,CONSIDER_KSTRTO,VOLATILE,$(
		)PREFER_FALLTHROUGH,PREFER_KERNEL_TYPES,PREFER_DEFINED_ATTRIBUTE_MACRO" || status=1
	return "$status"
}

style_kernel_doc() {
	local files
	files=$(our_files 'mm/*.c' 'mm/*.h' 'include/*.h' 'virt/*.c' 'virt/*.h')
	[[ $files ]] || return 0
	# shellcheck disable=SC2086
	(cd "$GMEM_TOP" && PATH=/usr/bin:$PATH "$tree/scripts/kernel-doc" -none -Wall -Werror $files)
}

# Print the files that we wrote as text, by full path.
text_files() {
	our_files | grep -vE '^(COPYING|patches/)' | sed "s,^,$GMEM_TOP/,"
}

# Find notes to oneself, which belong into issues. (The pattern is written so as not to find
# itself.)
style_leftovers() {
	local pattern='\b(TO''DO|FIX''ME|XX''X)\b' found
	found=$(text_files | xargs -d '\n' grep -nE "$pattern" /dev/null)
	found+=$(grep -nE "^\+.*($pattern)" "$patches"/*.patch /dev/null 2>/dev/null)
	echo "$found"
	[[ ! $found ]]
}

# prose: print all that we wrote, "PLACE:LINE:TEXT" a line: files, and of patches the messages and
# the lines that they add.
prose() {
	text_files | xargs -d '\n' grep -n '' /dev/null
	[[ ! -f $patches/cover ]] || grep -Hn '' "$patches/cover"
	awk '
		FNR == 1 { diff = !/^From: / }
		/^diff --git / { diff = 1 }
		!diff || /^#/ || (/^\+/ && !/^\+\+\+ /) { print FILENAME ":" FNR ":" $0 }
	' "$patches"/series "$patches"/[0-9]*.patch 2>/dev/null
}

# Find words that hide the actor of a sentence, and sentences that begin with one that makes the
# reader wait for it, unless they are questions. (The patterns do not find themselves.)
style_words() {
	local words='\b((some|no|any|every)''body|who''ever|in gen''eral|late''ly|in ques''tion|never''theless|that.s fi''ne)\b'
	local found first="(Tho""se|That""'s|It""'s|Wh""at|Wh""o)\b[^?]*\$"
	found=$(
		prose | grep -iE "^[^:]*:[0-9]+:.*$words"
		prose | grep -E "^[^:]*:[0-9]+:[[:space:]+]*(.*[#*.!] +)?$first" | sed 's/$/  (begin with the actor)/'
	)
	echo "${found//"$GMEM_TOP/"/}"
	[[ ! $found ]]
}

style_whitespace() {
	local found
	found=$(text_files | xargs -d '\n' grep -nE '[[:space:]]+$' /dev/null)
	echo "$found"
	[[ ! $found ]]
}

# Find files that are too long for one sitting: each should be two.
style_size() {
	local found
	found=$(text_files | xargs -d '\n' wc -l | awk '$1 > 900 && $2 != "total" { print $2 ": " $1 " lines" }')
	(($(wc -l <"$GMEM_TOP/gmem") < 150 )) || found+="gmem: only dispatches, below 150 lines"
	echo "$found"
	[[ ! $found ]]
}

style_codespell() {
	command -v codespell >/dev/null || { echo "codespell not installed"; return "$EXIT_SKIP"; }
	(cd "$GMEM_TOP" && our_files | grep -v '^COPYING' | PATH=/usr/bin:$PATH xargs -d '\n' codespell -q 7 -L damon,filp,iput)
}

style_tests=(shellcheck variables libs calls mutant_tables checkpatch kernel_doc leftovers words whitespace size codespell)
