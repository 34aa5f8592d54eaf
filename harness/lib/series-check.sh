# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Prove that patches/ and the overlay are a series that others can take.

use clone kernel ktap packages resume series tree

# MAINTAINERS has a patch of its own; the submitter signs.
# The base has no history, i.e. none of the commits that Fixes: names.
checkpatch_options=(--strict --no-signoff --ignore "FILE_PATH_CHANGES,UNKNOWN_COMMIT_ID"
	--show-types -q --summary-file)

series_check() {
	local with_build=${1-} target
	ktap_start $((5 + (with_build ? 1 : 0)))
	ktap_case overlay check_overlay
	ktap_case apply check_apply
	ktap_case am check_am
	ktap_case tree check_tree
	ktap_case checkpatch check_patches
	[[ ! $with_build ]] || ktap_case build check_builds
	ktap_totals
	ktap_status
}

# Check that every new file enters once, that none is one of Linux's own, and that every patch here
# is in patches/series.
check_overlay() {
	local claims files
	claims=$(series_entries | while read -r p; do overlay_claims "$patches/$p"; done | sort)
	files=$(overlay_files)
	{
		uniq -d <<<"$claims" | sed 's/$/: claimed by two patches/'
		comm -13 <(sort -u <<<"$claims") <(echo "$files") | sed '/^$/d;s/$/: no patch brings it/'
		comm -23 <(sort -u <<<"$claims") <(echo "$files") | sed '/^$/d;s/$/: claimed, but not there/'
		# shellcheck disable=SC2086 # a list of words
		[[ ! $files ]] || ktree ls-tree --name-only origin/base $files |
			sed 's/$/: Linux has it already, change it by a patch/'
		(cd "$patches" 2>/dev/null && printf '%s\n' [0-9]*.patch | grep -v '\*') |
			grep -vxF -f <(series_entries) | sed 's/$/: not in patches\/series/'
	} >"$GMEM_OUT/overlay.errors" || :
	cat "$GMEM_OUT/overlay.errors"
	[[ ! -s $GMEM_OUT/overlay.errors ]]
}

# Check that all patches apply. git apply knows no fuzz; an offset says that the patch is older than
# what is below it.
check_apply() {
	local tmp entry status=0
	tmp=$(mktemp -d "$GMEM_OUT/series.XXXXXX")
	# Put only the patched files into the index: git reads and writes all of it for each patch.
	series_entries | while read -r entry; do
		sed -n 's,^diff --git a/\(.*\) b/.*,\1,p' "$patches/$entry"
	done | sort -u >"$tmp/files"
	# shellcheck disable=SC2046 # a list of words
	ktree ls-tree -r origin/base -- $(<"$tmp/files") |
		GIT_INDEX_FILE=$tmp/index ktree update-index --index-info
	while read -r entry; do
		grep -q '^diff --git ' "$patches/$entry" || continue
		GIT_INDEX_FILE=$tmp/index ktree apply --cached -v "$patches/$entry" >"$tmp/log" 2>&1 || status=1
		if grep -E 'offset|fuzz|error:' "$tmp/log" | sed "s/^/$entry: /"; then
			status=1
		fi
	done < <(series_entries)
	rm -rf "$tmp"
	return "$status"
}

# Apply the mails, on a pristine tree of only the files that they touch.
check_am() {
	local tmp=$GMEM_OUT/am mails=$GMEM_OUT/series target status=0
	series_build "$mails" || return
	[[ $(series_entries) ]] || return 0
	target=$(series_commits) || return
	rm -rf "$tmp"
	git clone -q --shared --no-checkout "$tree" "$tmp" || return
	ktree diff --name-only --no-renames "origin/base..$target" | sed 's,^,/,' >"$tmp/.git/files"
	git -C "$tmp" sparse-checkout set --no-cone --stdin <"$tmp/.git/files" || return
	git -C "$tmp" checkout -q --detach "$(ktree rev-parse origin/base)" || return
	git -C "$tmp" -c user.name=gmem -c user.email=gmem@localhost \
		am -q --keep-non-patch "$mails"/*.patch || status=1
	if ((!status)) && [[ $(git -C "$tmp" rev-parse 'HEAD^{tree}') != $(ktree rev-parse "$target^{tree}") ]]; then
		echo "what git am made differs from patches/ and overlay"
		status=1
	fi
	rm -rf "$tmp"
	return "$status"
}

# Check that the tree that is built is what is in the repository.
check_tree() {
	local target
	target=$(series_commits) || return
	if [[ $(ktree rev-parse 'HEAD^{tree}') != $(ktree rev-parse "$target^{tree}") ]]; then
		echo "$tree has commits that are not in patches/: ./gmem series refresh"
		ktree diff --stat "$target" HEAD | tail -n 5
		return 1
	fi
	! tree_dirty || { echo "$tree has uncommitted changes"; ktree status --short; return 1; }
}

# Run checkpatch with Debian's python3, which has the modules installed.
checkpatch() {
	(cd "$tree" && PATH=/usr/bin:$PATH scripts/checkpatch.pl "${checkpatch_options[@]}" "$@")
}

# Check all patches at once: checkpatch asks get_maintainer.pl for each file of each patch, but only
# once for a file.
check_patches() {
	[[ ! $(series_entries) ]] || checkpatch "$GMEM_OUT"/series/*.patch
}

# Build every commit, in a tree of its own (the compiler cache knows most of it). A commit that
# changes nothing that a kernel is made of is not built, nor with --resume what built before.
check_builds() {
	local dir=$GMEM_OUT/linux-series target deps built=$GMEM_OUT/check/series.built
	local our_content linux_content
	target=$(series_commits) && our_content=$(content_of "$GMEM_TOP") || return
	have_clone "$dir" || return
	# The commits are objects of the other tree; no ref names them.
	grep -qxF "$tree/.git/objects" "$dir/.git/objects/info/alternates" ||
		echo "$tree/.git/objects" >>"$dir/.git/objects/info/alternates"
	mkdir -p "${built%/*}"
	[[ $resume ]] || rm -f "$built"
	while read -r linux_content; do
		# If nothing were known of a commit, it would look like the one before.
		ktree cat-file -e "$linux_content^{tree}" || return
		deps=$(dep_kernel x86_64 default | hash_of) || return
		! grep -qsxF "$deps" "$built" || continue
		git -C "$dir" checkout -q --detach "$linux_content" || return
		kernel_env x86_64
		need build
		# Options that a later commit brings are unknown here, as in the base.
		kernel_make "$dir" "$dir/build-x86_64-default" default 1 series \
			>"$GMEM_OUT/log/series-build.log" 2>&1 || {
			git -C "$dir" log -1 --oneline
			tail -n 20 "$GMEM_OUT/log/series-build.log"
			return 1
		}
		echo "$deps" >>"$built"
	done < <(git -C "$dir" rev-list --reverse "origin/base..$target")
}
