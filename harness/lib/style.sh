# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Checks of a change that need no build.

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

style_shellcheck() {
	local files
	need style
	files=$(shell_files)
	# Libraries use what their callers set; shellcheck sees one file at a time.
	# shellcheck disable=SC2086 # a list of words
	(cd "$GMEM_TOP" && shellcheck -x -S style -e SC1090,SC1091,SC2034,SC2154 $files)
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

# Find words that hide the actor of a sentence. (This pattern does not find itself either.)
style_words() {
	local pattern='\b((some|no|any|every)''body|who''ever|in gen''eral|late''ly|in ques''tion|never''theless|that.s fi''ne)\b' found
	found=$(text_files | xargs -d '\n' grep -nwiE "$pattern" /dev/null)
	echo "$found"
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

style_tests=(shellcheck checkpatch kernel_doc leftovers words whitespace size codespell)
