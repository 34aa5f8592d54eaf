# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# The items of a check. An item has a name, which begins with its level, and a function, whose
# status is the item's verdict.

items=()			# names, in the order in which they run
declare -gA item_function	# by name
declare -gA item_again		# the arguments of ./gmem check that repeat it
declare -gA item_subject	# what the function is about: a test, a mutant, ...
declare -gA item_arch item_variant	# the machine, if the item is about one
# A function that prints what the verdict depends on, if resume.sh doesn't know that by itself.
declare -gA item_depends

# add_item NAME FUNCTION [AGAIN [SUBJECT [ARCH VARIANT]]]: add an item to the end.
add_item() {
	items+=("$1")
	item_function[$1]=$2
	item_again[$1]=${3:-$1}
	item_subject[$1]=${4-}
	item_arch[$1]=${5-}
	item_variant[$1]=${6-}
}

item_level() {
	echo "${1%%.*}"
}

# call_item NAME: call the function of an item, with those of subject, arch and variant that the
# item has.
call_item() {
	local args=() arg
	for arg in "${item_subject[$1]}" "${item_arch[$1]}" "${item_variant[$1]}"; do
		[[ ! $arg ]] || args+=("$arg")
	done
	"${item_function[$1]}" ${args[@]+"${args[@]}"}
}
