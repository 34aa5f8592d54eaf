# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# The series: patches/series lists patches/NNNN-*.patch in order. A patch is a mail. Below its "---"
# stand lines "Overlay: PATH" for the new files that enter with it. These are kept as files, at
# their kernel path, in this repository. The diff of a patch holds edits to existing files only. So
# there is no second copy of anything.

use clone

patches=$GMEM_TOP/patches

series_entries() {
	[[ ! -f $patches/series ]] || sed 's/#.*//;s/[[:space:]]*$//;/^$/d' "$patches/series"
}

# overlay_claims PATCH: print the new files that it brings.
overlay_claims() {
	sed -n '/^diff --git /q;s/^Overlay: //p' "$1" | tr -s ' ' '\n'
}

# Print every file here that is for Linux, i.e. those in a directory that Linux has as well.
overlay_files() {
	local dirs
	dirs=$(comm -12 <(cd "$GMEM_TOP" && find . -mindepth 1 -maxdepth 1 -type d -printf '%P\n' | sort) \
		<(ktree ls-tree -d --name-only origin/base | sort))
	[[ $dirs ]] || return 0
	# shellcheck disable=SC2086 # a list of words
	(cd "$GMEM_TOP" && git ls-files -co --exclude-standard -- $dirs | sort -u |
		while read -r f; do [[ ! -f $f ]] || echo "$f"; done)
}

# Print a hash of everything that decides what the patched tree is.
series_key() {
	{
		ktree rev-parse origin/base
		if [[ -f $patches/series ]]; then
			cat "$patches"/series "$patches"/*.patch 2>/dev/null
			(cd "$GMEM_TOP" && overlay_files | git hash-object --no-filters --stdin-paths &&
				overlay_files | while read -r f; do [[ ! -x $f ]] || echo "$f"; done)
		fi
	} | hash_of
}

# series_commits: make the series into commits on the base, with author and dates from the patches,
# so that the same series gives the same commits everywhere. Prints the last one. No file of the
# tree is touched. This takes a minute, hence out/series.commits: the key of the series, and its
# last commit.
series_commits() {
	local key commit known=$GMEM_OUT/series.commits
	key=$(series_key) || return
	if [[ $(cut -d' ' -f1 "$known" 2>/dev/null) == "$key" ]]; then
		commit=$(cut -d' ' -f2 "$known")
		if ktree cat-file -e "$commit^{commit}" 2>/dev/null; then
			echo "$commit"
			return
		fi
	fi
	commit=$(series_apply) || return
	echo "$key $commit" >"$known.$BASHPID" && mv "$known.$BASHPID" "$known" || return
	echo "$commit"
}

# Commit everything on top of the base, in an index of its own. Prints the last commit.
series_apply() {
	local tmp commit entry
	tmp=$(mktemp -d "$GMEM_OUT/series.XXXXXX")
	commit=$(ktree rev-parse origin/base)
	GIT_INDEX_FILE=$tmp/index ktree read-tree "$commit" || return
	while read -r entry; do
		commit=$(series_commit "$tmp" "$commit" "$entry") || {
			note "patches/$entry does not apply"
			rm -rf "$tmp"
			return 1
		}
	done < <(series_entries)
	rm -rf "$tmp"
	echo "$commit"
}

info_field() {
	sed -n "s/^$1: //p" "$2"
}

series_commit() {
	local tmp=$1 parent=$2 entry=$3 path blob mode
	export GIT_INDEX_FILE=$tmp/index
	git mailinfo -b "$tmp/body" "$tmp/diff" <"$patches/$entry" >"$tmp/info" || return
	if grep -q '^diff --git ' "$tmp/diff"; then
		ktree apply --cached --whitespace=nowarn "$tmp/diff" || return
	fi
	while read -r path; do
		[[ -f $GMEM_TOP/$path ]] || { note "$path is claimed, but not there"; return 1; }
		blob=$(ktree hash-object -w --no-filters "$GMEM_TOP/$path") || return
		mode=100644
		[[ ! -x $GMEM_TOP/$path ]] || mode=100755
		ktree update-index --add --cacheinfo "$mode,$blob,$path" || return
	done < <(overlay_claims "$patches/$entry")
	{ info_field Subject "$tmp/info"; echo; cat "$tmp/body"; } >"$tmp/message"
	GIT_AUTHOR_NAME=$(info_field Author "$tmp/info")
	GIT_AUTHOR_EMAIL=$(info_field Email "$tmp/info")
	GIT_AUTHOR_DATE=$(info_field Date "$tmp/info")
	GIT_COMMITTER_NAME=$GIT_AUTHOR_NAME GIT_COMMITTER_EMAIL=$GIT_AUTHOR_EMAIL
	GIT_COMMITTER_DATE=$GIT_AUTHOR_DATE
	export GIT_{AUTHOR,COMMITTER}_{NAME,EMAIL,DATE}
	ktree commit-tree "$(ktree write-tree)" -p "$parent" -F "$tmp/message"
}

# series_build DIR: write the series as mails that git am takes.
series_build() {
	local dir=$1 target
	target=$(series_commits) || return
	rm -rf "$dir"
	mkdir -p "$dir"
	[[ $(series_entries) ]] || return 0
	ktree -c format.signOff=false -c format.useAutoBase=false -c diff.noprefix=false \
		-c diff.renames=false -c core.abbrev=12 format-patch -q --no-signature --zero-commit \
		--full-index --no-renames --cover-letter --base=origin/base -o "$dir" "origin/base..$target" || return
	# The cover letter's name is not *.patch: git am takes no mail without a change.
	cover_letter "$dir/0000-cover-letter.patch" >"$dir/cover-letter.txt" || return
	rm "$dir/0000-cover-letter.patch"
}

# cover_letter FILE: print git's cover letter with the texts of patches/cover, which has the subject
# in its first line, and the text below an empty one.
cover_letter() {
	local subject="guest_memfd: guest memory made of hugetlb pages"
	[[ ! -f $patches/cover ]] || subject=$(head -n 1 "$patches/cover")
	awk -v subject="$subject" -v cover="$patches/cover" '
	{ sub(/\*\*\* SUBJECT HERE \*\*\*/, subject) }
	/\*\*\* BLURB HERE \*\*\*/ {
		getline line < cover	# the subject
		while ((getline line < cover) > 0) print line
		next
	}
	{ print }' "$1"
}

# The comment above each entry of patches/series, by the entry's name without its number.
declare -gA section

load_sections() {
	local line text=""
	section=()
	[[ -f $patches/series ]] || return 0
	while IFS= read -r line; do
		if [[ $line == [0-9]*.patch ]]; then
			section[${line#*-}]=$text
			text=""
		else
			text+=$line$'\n'
		fi
	done <"$patches/series"
	section[END]=$text
}

# series_refresh FORCE: make the commits in out/linux the series.
series_refresh() {
	local force=$1 tmp commit nr=0 name old
	have_clone "$tree" || return
	! tree_dirty || die "$tree has uncommitted changes: commit them first (or git stash)"
	[[ ! $(ktree rev-list --merges origin/base..HEAD) ]] || die "there are merges in the series"
	tmp=$(mktemp -d "$GMEM_OUT/refresh.XXXXXX")
	: >"$tmp/claimed"
	: >"$tmp/names"
	while read -r commit; do
		nr=$((nr + 1))
		name=$(printf '%04d-%s.patch' "$nr" "$(ktree log -1 --format=%f "$commit" | cut -c1-52 | sed 's/[-.]*$//')")
		echo "$name" >>"$tmp/names"
		refresh_patch "$commit" "$tmp" >"$tmp/$name" || { rm -rf "$tmp"; return 1; }
	done < <(ktree rev-list --reverse origin/base..HEAD)
	refresh_conflicts "$tmp" || [[ $force ]] || { rm -rf "$tmp"; return 1; }
	# Write only here, after everything was found to be in order.
	mkdir -p "$patches"
	old=$(series_entries | while read -r name; do overlay_claims "$patches/$name"; done)
	load_sections
	refresh_series "$tmp/names" >"$tmp/series"
	refresh_write "$tmp" "$old"
	rm -rf "$tmp"
	record_applied "$(series_key)" "$(ktree rev-parse HEAD)"
	note "patches/: $nr patches, $(overlay_files | wc -l) overlay files"
}

# refresh_patch COMMIT TMP: print one commit as a patch of ours. Notes the files that it brings in
# TMP/claimed.
refresh_patch() {
	local commit=$1 tmp=$2 path added
	added=$(ktree diff-tree -r --no-renames --diff-filter=A --name-only --no-commit-id "$commit")
	while read -r path; do
		! grep -qxF -- "$path" "$tmp/claimed" || {
			note "$(ktree log -1 --format='%h ("%s")' "$commit") edits $path, which an" \
				"earlier commit brings: fold it in there"
			return 1
		}
	done < <(ktree diff-tree -r --no-renames --diff-filter=a --name-only --no-commit-id "$commit")
	[[ ! $added ]] || echo "$added" >>"$tmp/claimed"
	ktree log -1 --format='From: %an <%ae>%nDate: %aD%nSubject: %s%n%n%b' "$commit" |
		sed -e :a -e '/^\n*$/{$d;N;ba' -e '}' || return
	echo ---
	[[ ! $added ]] || printf '%s\n' "$added" | sed 's/^/Overlay: /'
	echo
	ktree diff-tree -p --full-index --no-renames --diff-filter=a --no-commit-id --no-color \
		--no-ext-diff --src-prefix=a/ --dst-prefix=b/ "$commit"
}

# Fail if a file was edited here and there since both were the same: neither edit may be lost.
refresh_conflicts() {
	local tmp=$1 path here there last status=0
	while read -r path; do
		[[ -f $GMEM_TOP/$path ]] || continue
		here=$(ktree hash-object --no-filters "$GMEM_TOP/$path")
		there=$(ktree rev-parse "HEAD:$path")
		last=$(ktree rev-parse -q --verify "$(applied_commit):$path" 2>/dev/null || :)
		if [[ $here != "$there" && $here != "$last" ]]; then
			note "$path: differs from the one in $tree (--force takes the latter)"
			status=1
		fi
	done <"$tmp/claimed"
	return "$status"
}

refresh_series() {
	local name
	while read -r name; do
		printf '%s' "${section[${name#*-}]-}"
		echo "$name"
		unset "section[${name#*-}]"
	done <"$1"
	# Keep the comment of an entry that is gone: the user has to look at it.
	for name in "${!section[@]}"; do
		[[ $name == END ]] || [[ ! ${section[$name]} ]] ||
			printf '%s' "${section[$name]}"
	done
	printf '%s' "${section[END]-}"
}

refresh_write() {
	local tmp=$1 old=$2 path
	rm -f "$patches"/[0-9]*.patch
	mv "$tmp"/[0-9]*.patch "$patches/" 2>/dev/null || :
	mv "$tmp/series" "$patches/series"
	while read -r path; do
		mkdir -p "$GMEM_TOP/$(dirname "$path")"
		ktree show "HEAD:$path" >"$GMEM_TOP/$path"
		case $(ktree ls-tree HEAD "$path") in
		100755*) chmod 755 "$GMEM_TOP/$path" ;;
		*) chmod 644 "$GMEM_TOP/$path" ;;
		esac
	done <"$tmp/claimed"
	for path in $old; do
		grep -qxF -- "$path" "$tmp/claimed" || rm -f "$GMEM_TOP/$path"
	done
}
