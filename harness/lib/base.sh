# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# The base is an unpacked Linux source as one git commit, in a bare repository in the cache
# (linux-<version>.git, branch base). Author and date are fixed, so that the commit's id is the same
# everywhere. The source comes from, in this order: GMEM_LINUX, the cache, Debian, kernel.org.

use packages

# apt_sources: print the URIs of all archives with a component main, from this machine's apt setup.
apt_sources() {
	local file
	for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
		[[ -f $file ]] || continue
		# deb [options] URI suite component...
		sed -nE 's/^deb(-src)?[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+)[[:space:]]+[a-z]+[[:space:]].*\bmain\b.*/\3/p' \
			"$file"
	done
	for file in /etc/apt/sources.list.d/*.sources; do
		[[ -f $file ]] || continue
		awk -v RS= '{
			uri = suite = ""; main = 0; off = 0
			n = split($0, lines, "\n")
			for (i = 1; i <= n; i++) {
				m = split(lines[i], w, /[ \t]+/)
				key = tolower(w[1])
				if (key == "uris:") uri = w[2]
				if (key == "suites:") suite = w[2]
				if (key == "enabled:" && tolower(w[2]) == "no") off = 1
				if (key == "components:")
					for (j = 2; j <= m; j++) if (w[j] == "main") main = 1
			}
			# The plain suite: not security, updates or backports.
			if (uri != "" && main && !off && suite ~ /^[a-z]+$/) print uri
		}' "$file"
	done
}

debian_mirror() {
	local uri
	# Other archives may be set up as well: take one for which Debian's keyring can vouch.
	uri=$(apt_sources | grep -v security | grep -m1 -i debian || :)
	[[ $uri ]] || note "apt is not set up with a Debian mirror (GMEM_LINUX=<tarball or tree> does without)"
	echo "$uri"
}

# debian_apt SUITE ARCH CMD...: run apt-get with a configuration, lists and cache of its own. The
# machine's apt is not touched; its proxy settings are used.
debian_apt() {
	local suite=$1 arch=$2 dir=$GMEM_CACHE/apt/$1-$2
	shift 2
	mkdir -p "$dir"/{lists/partial,archives/partial,state}
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
		"$(debian_mirror) $suite main" >"$dir/sources.list"
	touch "$dir/state/status"
	apt-get -q -o "APT::Architecture=$arch" -o "APT::Architectures::=$arch" \
		-o "Dir::Etc::SourceList=$dir/sources.list" -o Dir::Etc::SourceParts=- \
		-o "Dir::State=$dir/state" -o "Dir::State::Lists=$dir/lists" \
		-o "Dir::State::Status=$dir/state/status" -o "Dir::Cache=$dir" \
		-o "Dir::Cache::Archives=$dir/archives" -o APT::Sandbox::User="$(id -un)" \
		-o Acquire::Languages=none "$@"
}

# debian_download DIR SUITE ARCH PACKAGE: download PACKAGE's .deb into DIR.
debian_download() {
	local dir=$1 suite=$2 arch=$3 package=$4
	mkdir -p "$dir" &&
		debian_apt "$suite" "$arch" update &&
		(cd "$dir" && debian_apt "$suite" "$arch" download "$package")
}

# fetch_busybox ARCH: fetch a static busybox for a foreign machine; print its path.
fetch_busybox() {
	local file=$GMEM_CACHE/busybox-$1
	[[ -x $file ]] || locked "$file.lock" fetch_busybox_locked "$1" "$file" >&2 || return
	echo "$file"
}

fetch_busybox_locked() {
	local arch=$1 file=$2 tmp=$2.tmp suite
	[[ ! -x $file ]] || return 0
	need fetch
	suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
	rm -rf "$tmp"
	step "$GMEM_OUT/log/busybox-$arch.log" "fetching busybox-static for $arch" \
		debian_download "$tmp" "$suite" "${arch/x86_64/amd64}" "busybox-static:${arch/x86_64/amd64}" || return
	[[ ! $GMEM_DRY ]] || return 0
	dpkg-deb --fsys-tarfile "$tmp"/*.deb | tar -x -C "$tmp" --wildcards '*bin/busybox' || return
	mv "$tmp"/*bin/busybox "$file" 2>/dev/null || mv "$tmp"/usr/bin/busybox "$file" || return
	rm -rf "$tmp"
}

tree_version() {
	sed -n 's/^VERSION = //p;s/^PATCHLEVEL = //p;s/^SUBLEVEL = //p' "$1/Makefile" |
		head -n 3 | paste -sd.
}

check_version() {
	local ok=""
	[[ $1 != "$BASE_SERIES".* ]] || ((${1##*.} < BASE_MIN_PATCHLEVEL)) || ok=1
	[[ $ok ]] || note "this is Linux '$1'; $BASE_SERIES.$BASE_MIN_PATCHLEVEL or a later" \
		"$BASE_SERIES.y is needed"
	[[ $ok ]]
}

# base_repo: print the path of the bare repository to use, which is made if need be.
base_repo() {
	local repo
	[[ $GMEM_DRY ]] || mkdir -p "$GMEM_CACHE"
	if [[ ${GMEM_LINUX:-} ]]; then
		[[ -e $GMEM_LINUX ]] || die "GMEM_LINUX=$GMEM_LINUX does not exist"
		# The source is read anew when it changes, as far as its own date and size tell.
		repo=$GMEM_CACHE/linux-own-$(stat -c '%n %Y %s' "$(realpath "$GMEM_LINUX")" | hash_of).git
	else
		repo=$GMEM_CACHE/linux-$BASE_VERSION.git
	fi
	if [[ $GMEM_DRY && ! -d $repo ]]; then
		note "would fetch Linux $BASE_VERSION (${GMEM_LINUX:-$BASE_DEBIAN_PACKAGE}) into $repo"
	elif [[ ! -d $repo ]]; then
		locked "$GMEM_CACHE/base.lock" make_base "$repo" >&2 || return
	fi
	echo "$repo"
}

# make_base REPO: make the repository. In the cache it is there as a whole or not at all.
make_base() {
	local repo=$1 tmp=$GMEM_CACHE/tmp.base status=0
	[[ ! -d $repo ]] || return 0
	rm -rf "$tmp"
	mkdir -p "$tmp/tree"
	if [[ ${GMEM_LINUX:-} ]]; then
		take_own "$tmp" || status=$?
	else
		take_debian "$tmp" || take_kernel_org "$tmp" || status=$?
	fi
	((status)) || [[ $GMEM_DRY ]] || check_version "$(tree_version "$tmp/tree")" || status=$?
	((status)) || step "$GMEM_OUT/log/base-import.log" "the source as a git commit" \
		import_base "$tmp" || status=$?
	((status)) || [[ $GMEM_DRY ]] || mv "$tmp/tree/.git" "$repo" || status=$?
	rm -rf "$tmp"
	return "$status"
}

unpack() {
	tar -x -f "$1" -C "$2" --strip-components=1 --no-same-owner
}

take_own() {
	if [[ -d $GMEM_LINUX ]]; then
		step "$GMEM_OUT/log/base-copy.log" "copying $GMEM_LINUX" copy_own "$1"
	else
		step "$GMEM_OUT/log/base-unpack.log" "unpacking $GMEM_LINUX" \
			unpack "$GMEM_LINUX" "$1/tree"
	fi
}

# Copy GMEM_LINUX, but no build output of a git tree.
copy_own() {
	if [[ -e $GMEM_LINUX/.git ]]; then
		git -C "$GMEM_LINUX" archive HEAD | tar -x -C "$1/tree"
	else
		cp -a "$GMEM_LINUX/." "$1/tree/"
	fi
}

# The package's tarball is the source, so it stays in the cache.
take_debian() {
	local tarball=$GMEM_CACHE/$BASE_DEBIAN_PACKAGE.tar.xz
	command -v apt-get >/dev/null || return
	if [[ ! -f $tarball ]]; then
		need fetch || return
		step "$GMEM_OUT/log/base-fetch.log" \
			"fetching $BASE_DEBIAN_PACKAGE from $BASE_DEBIAN_SUITE" \
			fetch_debian "$1" "$tarball" || return
	fi
	step "$GMEM_OUT/log/base-unpack.log" "unpacking it" unpack "$tarball" "$1/tree"
}

fetch_debian() {
	debian_download "$1/deb" "$BASE_DEBIAN_SUITE" "$(dpkg --print-architecture)" \
		"$BASE_DEBIAN_PACKAGE" || return
	dpkg-deb --fsys-tarfile "$1"/deb/*.deb |
		tar -x -O -f - "./usr/src/$BASE_DEBIAN_PACKAGE.tar.xz" >"$1/source.tar.xz" || return
	rm -rf "$1/deb"
	mv "$1/source.tar.xz" "$2"
}

# UNTESTED: for machines that reach kernel.org and no Debian mirror.
take_kernel_org() {
	local name=linux-$BASE_VERSION.tar.xz
	note "no $BASE_DEBIAN_PACKAGE to be had; trying kernel.org (untested)"
	need kernelorg || return
	step "$GMEM_OUT/log/base-fetch.log" "fetching $name" fetch_kernel_org "$1" "$name" || return
	step "$GMEM_OUT/log/base-unpack.log" "unpacking it" unpack "$1/$name" "$1/tree"
}

fetch_kernel_org() {
	cd "$1" || return
	curl -fsSO "$BASE_KERNEL_ORG/$2" || return
	curl -fsSO "$BASE_KERNEL_ORG/sha256sums.asc" || return
	grep " $2\$" sha256sums.asc | sha256sum -c -
}

# Add everything, whatever .gitignore says: only the content counts.
import_base() {
	local tree=$1/tree version
	version=$(tree_version "$tree") || return
	export GIT_AUTHOR_NAME="gmem base" GIT_AUTHOR_EMAIL=base@localhost
	export GIT_COMMITTER_NAME=$GIT_AUTHOR_NAME GIT_COMMITTER_EMAIL=$GIT_AUTHOR_EMAIL
	export GIT_AUTHOR_DATE="2026-01-01T00:00:00+0000" GIT_COMMITTER_DATE="2026-01-01T00:00:00+0000"
	rm -rf "$tree/.git"
	git init -q -b base "$tree" || return
	# Spend no time on packing thousands of small files well.
	git -C "$tree" config core.compression 1 || return
	git -C "$tree" config core.fsyncMethod batch || return
	git -C "$tree" add -A -f || return
	git -C "$tree" commit -q -m "Linux $version" || return
	git -C "$tree" config core.bare true
	rm -f "$tree/.git/index"
}

# say_base REPO: say so if it is another base than the one that everything was tested with.
say_base() {
	local tree
	tree=$(git -C "$1" rev-parse 'base^{tree}')
	[[ $tree == "$BASE_TREE" ]] ||
		note "the base is $(git -C "$1" log -1 --format=%s base) ($tree)," \
			"not the pinned Linux $BASE_VERSION ($BASE_TREE)"
}
