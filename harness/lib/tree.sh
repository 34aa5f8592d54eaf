# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# The kernel trees: out/linux is the base with the series applied, one commit per patch, on branch
# gmem; out/linux-vanilla is the base alone. Developers edit and commit in out/linux, and ./gmem
# series refresh carries their commits over to patches/ and the overlay. No work in out/linux is
# ever thrown away unasked.

use clone series

# tree_ready VANILLA: see to it that the tree is there and is what patches/ and the overlay say, or
# what a developer has made of that.
tree_ready() {
	if [[ ${1:-} ]]; then
		locked "$GMEM_OUT/tree.lock" have_clone "$GMEM_OUT/linux-vanilla" >&2
	else
		locked "$GMEM_OUT/tree.lock" tree_sync "" >&2
	fi
}

tree_sync() {
	local force=$1 key target head
	have_clone "$tree" || return
	[[ ! $GMEM_DRY ]] || [[ -d $tree ]] || return 0
	key=$(series_key) || return
	[[ $key != "$(applied_key)" || $force ]] || return 0
	target=$(series_commits) || return
	head=$(ktree rev-parse HEAD)
	# The tree is what it should be, or it has the user's work on top of that.
	if [[ ! $force ]] && { ktree merge-base --is-ancestor "$target" "$head" ||
	   [[ $(ktree rev-parse "$head^{tree}") == $(ktree rev-parse "$target^{tree}") ]]; }; then
		[[ $GMEM_DRY ]] || record_applied "$key" "$head"
		return 0
	fi
	if [[ $force ]]; then
		tree_save || return
	elif tree_dirty || { [[ $head != "$(applied_commit)" ]] &&
	     [[ $head != $(ktree rev-parse origin/base) ]]; }; then
		note "patches/ or the overlay changed, and $tree has work of its own:"
		ktree log --oneline -n 5 "$(applied_commit || echo origin/base)..HEAD" 2>/dev/null |
			sed 's/^/  /' >&2
		ktree status --short | head -n 5 >&2
		note "keep that: ./gmem series refresh; drop it (a backup is kept): ./gmem tree --force"
		return 1
	fi
	# Write only files that differ, so that a build stays incremental.
	doit ktree reset -q --keep "$target" || return
	[[ $GMEM_DRY ]] || record_applied "$key" "$target"
	note "${tree#"$GMEM_TOP"/}: $(ktree rev-list --count "origin/base..$target") patches applied"
}

tree_save() {
	local name
	name=$(date +%Y%m%d-%H%M%S)
	doit ktree update-ref "refs/gmem/backup/$name" HEAD || return
	! tree_dirty || doit ktree stash push -q -u -m "gmem tree --force $name" || return
	note "what was there: git -C $tree log refs/gmem/backup/$name; git -C $tree stash list"
}
