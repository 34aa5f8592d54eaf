# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: GPL-2.0
# Verdicts that outlive their check: out/check/kept/ITEM has the last pass of an item, and the
# content of all it depends on. ./gmem check --resume takes it instead of running the item
# again, if all of that is still the same; committed or not, and how old, does not matter.
#
# Only a pass is kept. A failure is repeated, because its cause may be gone, and a skip, because what it lacked may be there by now; it costs next to nothing.
# A pass is not kept either if something it depends on changed while it ran.
#
# item_deps() is on the safe side: it names a whole directory rather than forget a file. Left
# out on purpose is what cannot change a verdict: documents, and the other tests of a directory.

kept_dir=$GMEM_OUT/check/kept
resume=""	# whether to use them

# content_of DIR: the id of what is in a git work tree, whether it is committed or not.
content_of() {
	local index
	index=$GMEM_OUT/check/index.$(basename "$1")
	locked "$index.flock" content_of_locked "$1" "$index"
}

# The index is a copy of its own: what the user has staged is left alone.
content_of_locked() {
	local own
	own=$(git -C "$1" rev-parse --absolute-git-dir)/index || return
	[[ -f $2 || ! -f $own ]] || cp "$own" "$2" || return
	GIT_INDEX_FILE=$2 git -C "$1" add -A 2>/dev/null && GIT_INDEX_FILE=$2 git -C "$1" write-tree
}

# ours PATH...: what there is of this repository.
ours() {
	git -C "$GMEM_TOP" ls-tree "$our_content" -- "$@" | hash_of
}

# What is compiled into a kernel, or used to compile it.
dep_kernel() {
	local arch=$1 variant=$2
	kernel_env "$arch"
	echo "kernel $({ ktree ls-tree "$linux_content" | grep -vP '\t(Documentation|MAINTAINERS|samples|tools)$'
		ktree ls-tree "$linux_content" tools/ | grep -vP '\ttools/testing$'; } | hash_of)"
	echo "base $(ktree rev-parse 'origin/base^{tree}')"
	echo "configs $(ours harness/configs "harness/arch/$arch.conf") $variant $(ours "harness/variants/$variant.config")"
	echo "compiler $("${cross}gcc" --version 2>&1 | hash_of)"
}

# dep_selftest DIR/NAME: what is in that directory, and what all of them share. Left out are the
# sources of its other programs and their lines in the Makefile, unless a file includes them: a
# source that the Makefile does not call a program may be a part of any of them.
dep_selftest() {
	local dir=tools/testing/selftests/${1%%/*} name=${1#*/} line='^TEST_GEN_(PROGS|FILES)\w* *\+?= *'
	{
		ktree ls-tree -r "$linux_content" -- "$dir" | awk -v dir="$dir" -v name="$name" '
			BEGIN { makefile = dir "/Makefile" }
			tree && !($4 in other) && index($4, makefile) != 1
			tree { next }
			$1 == "include" { for (p in other) if (p ~ ("/" $2 "$")) delete other[p]; next }
			$1 != name { other[dir "/" $1 ".c"] }
			' <(ktree grep -hoP "$line\K[\w./-]+\$" "$linux_content" -- "$dir/Makefile*"
			ktree grep -hoP '^#include "\K.*\.c(?="$)' "$linux_content" -- "$dir" | sed 's,.*/,,;s/^/include /') \
			tree=1 -
		ktree grep -hvP "${line}[\w./-]+\$" "$linux_content" -- "$dir/Makefile*"
		ktree grep -hoP "$line$name\$" "$linux_content" -- "$dir/Makefile*"
		ktree ls-tree "$linux_content" tools/testing/selftests/ |
			grep -P ' blob |/(kselftest\w*|lib|rseq|cgroup|vfio)$'
	} | hash_of
}

# dep_test NAME ARCH VARIANT: the test's file, its programs, and the machine.
dep_test() {
	local file f
	load_test "$1"
	file=$(test_file "$1")
	echo "test $(ours "${file#"$GMEM_TOP"/}")"
	echo "harness $(ours gmem base.conf harness/lib harness/guest harness/cmd)"
	for f in $selftests; do
		echo "selftest $f $(dep_selftest "$f")"
	done
	for f in ${files[@]+"${files[@]}"}; do
		[[ -e $f || -e $GMEM_TOP/$f ]] || f=${f%:*}
		echo "file $f $(if [[ $f == /* ]]; then find "$f" -type f -exec sha256sum {} +; else ours "$f"; fi | hash_of)"
	done
	# A program that runs here may use anything of these.
	if ((${#host_cmd[@]})); then
		echo "programs $(ours vmm bench harness/selftest harness/arch harness/configs harness/variants)"
	fi
	[[ $kernel_needed != yes ]] || {
		dep_kernel "$2" "$3"
		echo "qemu $("$qemu" --version 2>&1 | hash_of) $(hash_of </bin/busybox)"
	}
}

# item_deps NR: one line for each thing the item depends on.
item_deps() {
	local words linux_content our_content
	read -ra words <<<"${items[$1]}"
	linux_content=$(content_of "$tree") && our_content=$(content_of "$GMEM_TOP") || return
	case ${words[3]} in
	run_test) dep_test "${words[@]:4}" ;;
	build_one)
		dep_kernel "${words[@]:4}"
		echo "harness $(ours base.conf harness/lib)"
		;;
	unit_guestmem) echo "sources $(ours tools mm include virt harness/lib)" ;;
	*)
		echo "repository $our_content"
		echo "linux $linux_content $(ktree rev-parse HEAD)"
		;;
	esac
}

# kept_find NR DEPS: true if the item passed with these; the verdict is that of this check, too.
kept_find() {
	local words kept file
	read -ra words <<<"${items[$1]}"
	kept=$kept_dir/${words[1]}
	[[ $2 && $2 == "$(cat "$kept/deps" 2>/dev/null)" ]] || return
	for file in text time restarts when; do
		cp "$kept/$file" "$check_dir/$1.$file" || return
	done
}

# kept_save NR DEPS: the item has passed, with what was there when it began.
kept_save() {
	local words kept file
	read -ra words <<<"${items[$1]}"
	kept=$kept_dir/${words[1]}
	rm -rf "${kept:?}"
	[[ $2 && $2 == "$(item_deps "$1")" ]] || return 0
	mkdir -p "$kept.new" || return 0
	for file in text time restarts; do
		cp "$check_dir/$1.$file" "$kept.new/$file" || return 0
	done
	date '+%F %H:%M' >"$kept.new/when"
	echo "$2" >"$kept.new/deps"
	mv -T "$kept.new" "$kept"
}

# kept_drop NR: it has failed; that it once passed with the same is worth nothing now.
kept_drop() {
	local words
	read -ra words <<<"${items[$1]}"
	rm -rf "${kept_dir:?}/${words[1]}"
}

# all_content: what is in both trees.
all_content() {
	content_of "$tree" && content_of "$GMEM_TOP" && ktree rev-parse HEAD
}

# kept_totals CONTENT ARGUMENTS: what several sittings add up to, if all_content was CONTENT when
# this one began.
kept_totals() {
	local oldest text="complete: each item passed, or was skipped, as it is now"
	oldest=$(find "$check_dir" -name '*.when' -exec cat {} + | sort)
	oldest=${oldest%%$'\n'*}
	[[ $1 && $1 == "$(all_content)" ]] || text="not complete: there were changes meanwhile (again: the same command)"
	((!ktap_fail)) || text="not complete: $ktap_fail failed"
	echo "./gmem check $2: $(find "$check_dir" -name '*.when' | wc -l) of ${#items[@]} items from" \
		"earlier runs${oldest:+, the oldest of $oldest}; $text"
}
