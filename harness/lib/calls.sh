# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# The drawing of which file of ours calls which, made from the code by calls.awk, and kept in a
# document between two markers.

use clone

calls_document=$GMEM_TOP/Documentation/mm/guestmem.rst
calls_begin=".. calls: begin"
calls_end=".. calls: end"

# calls_sources: print the sources of the drawing and the headers that belong to them. Files that
# Linux has as well are in the tree, all others are here.
calls_sources() {
	local file
	for file in "$GMEM_TOP"/mm/guestmem*.[ch] "$GMEM_TOP"/include/linux/guestmem*.h \
		"$GMEM_TOP"/virt/kvm/guest_memfd*.[ch] "$tree"/virt/kvm/guest_memfd.[ch]; do
		[[ ! -f $file ]] || echo "$file"
	done
}

# calls_of drawing|circles: see calls.awk.
calls_of() {
	local files
	mapfile -t files < <(calls_sources)
	awk -f "$GMEM_TOP/harness/lib/calls.awk" -v what="$1" "${files[@]}"
}

# calls_block: print the drawing as the document has it, markers included.
calls_block() {
	printf '%s\n\n::\n\n' "$calls_begin"
	calls_of drawing | sed 's/^/  /'
	printf '\n%s\n' "$calls_end"
}

# calls_kept: print what the document has, markers included.
calls_kept() {
	sed -n "/^$calls_begin\$/,/^$calls_end\$/p" "$calls_document"
}

# calls_write: put the drawing into the document.
calls_write() {
	local new=$calls_document.$BASHPID
	[[ $(calls_kept) == *"$calls_end" ]] || die "$calls_document lacks the markers '$calls_begin', '$calls_end'"
	{
		sed "/^$calls_begin\$/,\$d" "$calls_document"
		calls_block
		sed "1,/^$calls_end\$/d" "$calls_document"
	} >"$new"
	# The document keeps its mode.
	cat "$new" >"$calls_document"
	rm "$new"
}

# calls_check: fail if files call each other, or if the document has another drawing.
calls_check() {
	local circles status=0
	circles=$(calls_of circles)
	if [[ $circles ]]; then
		echo "$circles"
		status=1
	fi
	diff <(calls_kept) <(calls_block) || {
		echo "${calls_document#"$GMEM_TOP"/}: not what the code does (./gmem calls --write)"
		status=1
	}
	return "$status"
}
