# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Keep verdicts for later checks. out/check/kept/ITEM has the last pass of an item, and the content
# of all it depends on. ./gmem check --resume takes that verdict instead of running the item again,
# if all of the content is still the same. Whether it is committed, and how old the verdict is, does
# not matter.
#
# Only a pass is kept. A failure is repeated, because its cause may be gone. A skip is repeated,
# because the thing that it lacked may be there by now, and it costs next to nothing. A pass is not
# kept either if something that it depends on changed while it ran.
#
# item_deps() is on the safe side: it names a whole directory rather than forget a file. Left out on
# purpose are files that cannot change a verdict: documents, and the other tests of a directory.

use clone items kernel test tree

kept_dir=$GMEM_OUT/check/kept
resume=""	# whether to use them

# content_of DIR: print the id of the content of a git work tree, whether it is committed or not.
content_of() {
	local index
	index=$GMEM_OUT/check/index.$(basename "$1")
	locked "$index.flock" content_of_locked "$1" "$index"
}

# Use a copy of the index, which leaves alone what the user has staged. The copy is a new one each
# time: what is tracked since may be a file that git ignores, and would not be added.
content_of_locked() {
	local own
	own=$(git -C "$1" rev-parse --absolute-git-dir)/index || return
	[[ ! -f $own ]] || cp "$own" "$2" || return
	GIT_INDEX_FILE=$2 git -C "$1" add -A 2>/dev/null && GIT_INDEX_FILE=$2 git -C "$1" write-tree
}

# ours PATH...: print a hash of these paths of this repository.
ours() {
	git -C "$GMEM_TOP" ls-tree "$our_content" -- "$@" | hash_of
}

# harness_files: print the files that ./gmem check and ./gmem run are made of. Files of other commands
# can't change the verdict of a test that runs in a machine.
harness_files() {
	local files=(harness/cmd/check harness/cmd/run harness/lib/common.sh) word libs lib i
	for ((i = 0; i < ${#files[@]}; i++)); do
		while read -r word libs; do
			[[ $word == use ]] || continue
			for lib in $libs; do
				[[ " ${files[*]} " == *" harness/lib/$lib.sh "* ]] ||
					files+=("harness/lib/$lib.sh")
			done
		done <"$GMEM_TOP/${files[i]}"
	done
	printf '%s\n' gmem base.conf harness/guest harness/lib/{calls.awk,mutants.pl} "${files[@]}"
}

# dep_kernel ARCH VARIANT: print hashes of all that is compiled into a kernel, or used to compile
# it.
dep_kernel() {
	local arch=$1 variant=$2
	kernel_env "$arch"
	echo "kernel $({ ktree ls-tree "$linux_content" | grep -vP '\t(Documentation|MAINTAINERS|samples|tools)$'
		ktree ls-tree "$linux_content" tools/ | grep -vP '\ttools/testing$'; } | hash_of)"
	echo "base $(ktree rev-parse 'origin/base^{tree}')"
	echo "configs $(ours harness/configs "harness/arch/$arch.conf") $variant $(ours "harness/variants/$variant.config")"
	echo "compiler $("${cross}gcc" --version 2>&1 | hash_of)"
}

# dep_selftest DIR/NAME: print a hash of all that is in that directory, and that all of them share.
# The sources of its other programs and their lines in the Makefile are left out, unless a file
# includes them. A source that the Makefile does not call a program may be a part of any program.
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

# dep_test NAME ARCH VARIANT: print hashes of the test's file, its programs, and the machine.
dep_test() {
	local file f
	load_test "$1"
	file=$(test_file "$1")
	echo "test $(ours "${file#"$GMEM_TOP"/}")"
	# shellcheck disable=SC2046 # a list of words
	echo "harness $(ours $(harness_files))"
	for f in $selftests; do
		echo "selftest $f $(dep_selftest "$f")"
	done
	for f in $tools; do
		echo "tool $f $(ktree ls-tree "$linux_content" "tools/$f.c" | hash_of)"
	done
	for f in ${files[@]+"${files[@]}"}; do
		[[ -e $f || -e $GMEM_TOP/$f ]] || f=${f%:*}
		echo "file $f $(if [[ $f == /* ]]; then find "$f" -type f -exec sha256sum {} +; else ours "$f"; fi | hash_of)"
	done
	# A program that runs on the host may use any of these.
	if ((${#host_cmd[@]})); then
		echo "programs $(ours vmm bench harness/{arch,cmd,configs,guest,lib,selftest,variants})"
	fi
	[[ $kernel_needed != yes ]] || {
		dep_kernel "$2" "$3"
		echo "qemu $("$qemu" --version 2>&1 | hash_of) $(hash_of </bin/busybox)"
	}
}

# item_deps NAME: print one line for each thing that the item depends on.
item_deps() {
	local name=$1 linux_content our_content
	local arch=${item_arch[$name]} variant=${item_variant[$name]}
	linux_content=$(content_of "$tree") && our_content=$(content_of "$GMEM_TOP") || return
	if [[ ${item_depends[$name]-} ]]; then
		"${item_depends[$name]}" "${item_subject[$name]}"
		return
	fi
	case ${item_function[$name]} in
	run_test) dep_test "${item_subject[$name]}" "$arch" "$variant" ;;
	build_one)
		dep_kernel "$arch" "$variant"
		# shellcheck disable=SC2046 # a list of words
		echo "harness $(ours $(harness_files))"
		;;
	unit_guestmem) echo "sources $(ours tools mm include virt harness/lib/check.sh)" ;;
	*)
		echo "repository $our_content"
		echo "linux $linux_content $(ktree rev-parse HEAD)"
		;;
	esac
}

# kept_find NAME DEPS: true if the item has passed with these. That verdict is then the one of this
# check, too.
kept_find() {
	local kept=$kept_dir/$1 file
	[[ $2 && $2 == "$(cat "$kept/deps" 2>/dev/null)" ]] || return
	for file in text time restarts when; do
		cp "$kept/$file" "$check_dir/$1.$file" || return
	done
}

# kept_save NAME DEPS: keep the verdict of an item that has passed. DEPS is from when it began.
kept_save() {
	local kept=$kept_dir/$1 file
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

# kept_drop NAME: drop the verdict of an item that has not passed now: an earlier pass is worth
# nothing.
kept_drop() {
	rm -rf "${kept_dir:?}/$1"
}

# all_content: print the content of both trees.
all_content() {
	content_of "$tree" && content_of "$GMEM_TOP" && ktree rev-parse HEAD
}

# kept_totals CONTENT ARGUMENTS: print what several sittings add up to, if all_content was CONTENT
# when this one began.
kept_totals() {
	local oldest text="complete: each item passed, or was skipped, as it is now"
	oldest=$(find "$check_dir" -name '*.when' -exec cat {} + | sort)
	oldest=${oldest%%$'\n'*}
	[[ $1 && $1 == "$(all_content)" ]] || text="not complete: there were changes meanwhile (again: the same command)"
	((!ktap_fail)) || text="not complete: $ktap_fail failed"
	echo "./gmem check $2: $(find "$check_dir" -name '*.when' | wc -l) of ${#items[@]} items from" \
		"earlier runs${oldest:+, the oldest of $oldest}; $text"
}
