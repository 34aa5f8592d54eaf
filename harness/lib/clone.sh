# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# The kernel trees as git repositories: out/linux and out/linux-vanilla are clones that borrow the
# objects of the base.

use base

tree=$GMEM_OUT/linux

ktree() {
	git -C "$tree" "$@"
}

# clone_base DIR: make a clone that borrows the cache's objects.
clone_base() {
	local dir=$1 repo tmp=$1.tmp
	repo=$(base_repo) || return
	[[ ! $GMEM_DRY ]] || { doit git clone --shared -b base "$repo" "$dir"; return; }
	say_base "$repo"
	rm -rf "$tmp"
	step "$GMEM_OUT/log/clone.log" "checking out ${dir#"$GMEM_TOP"/}" \
		git clone -q --shared -b base "$repo" "$tmp" || return
	echo '/build-*/' >>"$tmp/.git/info/exclude"
	git -C "$tmp" checkout -q -b gmem || return
	mv "$tmp" "$dir"
}

have_clone() {
	local dir=$1
	if [[ ! -d $dir ]]; then
		mkdir -p "$GMEM_OUT"
		clone_base "$dir"
		return
	fi
	git -C "$dir" cat-file -e 'origin/base^{tree}' 2>/dev/null || {
		note "$dir borrows from a cache that is gone ($(git -C "$dir" config remote.origin.url))"
		note "remove it, and it will be made anew (work that is only there is lost)"
		return 1
	}
	[[ ! ${GMEM_LINUX:-} || $(base_repo) == "$(git -C "$dir" config remote.origin.url)" ]] || {
		note "$dir has another base than GMEM_LINUX; remove it, or unset GMEM_LINUX"
		return 1
	}
}

# .git/gmem-applied has what was applied last: "key commit".
applied_key() {
	cut -d' ' -f1 "$tree/.git/gmem-applied" 2>/dev/null || :
}

applied_commit() {
	cut -d' ' -f2 "$tree/.git/gmem-applied" 2>/dev/null || :
}

record_applied() {
	echo "$1 $2" >"$tree/.git/gmem-applied"
}

tree_dirty() {
	[[ $(ktree status --porcelain | head -n 1) ]]
}
