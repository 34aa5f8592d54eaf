# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# One run from options to verdict; see harness/cmd/run for what the options mean.

use guest kernel packages qemu timeouts tree verdict

run_defaults() {
	opt_arch=x86_64 opt_variant=default opt_vanilla="" opt_icount="" opt_smp=2 opt_mem=""
	opt_numa=1 opt_hugepages="" opt_timeout=600 opt_taint="" opt_pools="" opt_plan=""
	opt_tap="" opt_id="" opt_boot_once=""
	opt_append=() opt_files=() opt_disks=() opt_splats=() opt_required=() run_cmd=()
}

# Handle an option that says which machine it is: shared with ./gmem shell. Sets shift_by.
machine_option() {
	shift_by=2
	case $1 in
	--arch) opt_arch=$2 ;;
	--variant) opt_variant=$2 ;;
	--vanilla) opt_vanilla=1 shift_by=1 ;;
	--icount) opt_icount=1 shift_by=1 ;;
	--smp) opt_smp=$2 ;;
	--mem) opt_mem=$2 ;;
	--numa) opt_numa=$2 ;;
	--hugepages) opt_hugepages+=${opt_hugepages:+,}$2 ;;
	--append) opt_append+=("$2") ;;
	--file) opt_files+=("$2") ;;
	--disk) opt_disks+=("$2") ;;
	*) return 1 ;;
	esac
}

verdict_option() {
	shift_by=2
	case $1 in
	--timeout) opt_timeout=$2 ;;
	--expect-splat) opt_splats+=("$2") ;;
	--require-splat) opt_required+=("$2") ;;
	--expect-taint) opt_taint+=$2 ;;
	--pools) opt_pools=1 shift_by=1 ;;
	--plan) opt_plan=1 opt_tap=1 shift_by=1 ;;
	--tap) opt_tap=1 shift_by=1 ;;
	--id) opt_id=$2 ;;
	--boot-once) opt_boot_once=1 shift_by=1 ;;
	*) return 1 ;;
	esac
}

parse_run_options() {
	local shift_by
	while (($#)); do
		case $1 in
		--) shift; run_cmd=("$@"); break ;;
		-?|--help) common_option "$1" || usage_error "unknown option $1"; shift; continue ;;
		-*) ;;
		*) run_cmd=("$@"); break ;;
		esac
		(($# > 1)) || set -- "$1" ""
		machine_option "$1" "$2" || verdict_option "$1" "$2" ||
			usage_error "unknown option $1 (./gmem run --help)"
		[[ $shift_by == 1 || $2 ]] || usage_error "$1 needs a value"
		shift "$shift_by" || :
	done
	check_run_options
}

check_run_options() {
	local what
	for what in "smp $opt_smp" "numa $opt_numa" "timeout $opt_timeout"; do
		[[ ${what#* } =~ ^[0-9]+$ ]] || usage_error "--${what% *}: '${what#* }' is no number"
	done
	((opt_smp > 0 && opt_numa > 0)) || usage_error "--smp and --numa start at 1"
	# Instructions are counted on one processor only.
	[[ ! $opt_icount ]] || opt_smp=1
	kernel_env "$opt_arch"
	check_variant "$opt_arch" "$opt_variant"
	hugepage_list "$opt_hugepages" >/dev/null
	[[ -z $opt_mem ]] || size_kb "$opt_mem" >/dev/null
	for what in ${opt_files[@]+"${opt_files[@]}"}; do
		[[ -e $what || -e ${what%:*} ]] || usage_error "--file: ${what%:*} does not exist"
	done
	for what in ${opt_disks[@]+"${opt_disks[@]}"}; do
		[[ -f $what && $what != *,* ]] ||
			usage_error "--disk: $what is no file, or has a comma in its name"
	done
}

# Make a directory for this run, and remove the oldest ones. With -n it is another directory: a run
# of that name may have left something there, or be under way.
new_run_dir() {
	local old pid
	mkdir -p "$GMEM_OUT/runs"
	[[ $opt_id ]] || opt_id=$(date +%m%d-%H%M%S)-$$
	run=$GMEM_OUT/runs/$opt_id${GMEM_DRY:+.dry}
	if read -r pid 2>/dev/null <"$run/pid" && [[ ! -e $run/verdict ]] && kill -0 "$pid" 2>/dev/null; then
		die "$run is in use by process $pid"
	fi
	rm -rf "$run"
	mkdir "$run"
	echo $$ >"$run/pid"
	# shellcheck disable=SC2012 # names are ours
	ls -td "$GMEM_OUT"/runs/*/verdict 2>/dev/null | tail -n +200 | while read -r old; do
		rm -rf "${old%/verdict}"
	done
}

prepare_machine() {
	local base
	tree_ready "$opt_vanilla" || return
	kernel_build "$opt_arch" "$opt_variant" "$opt_vanilla" || return
	need "$arch"
	base=$(guest_base "$arch") || return
	new_run_dir
	# The directory has files with -n as well: the printed lines refer to them.
	cp "$build/.config" "$run/config" 2>/dev/null || [[ $GMEM_DRY ]] || return
	guest_run_archive "$run" "$build" "$@" || return
	cat "$base" "$run/run.cpio" >"$run/initrd"
	rm -f "$run/run.cpio"
}

run_machine() {
	local outcome status reason="" boot_limit qemu_pid followers=() console_end="" hung="" limit
	local input_fd report_fd console_fd monitor_fd
	prepare_machine "$@" || die "no machine to run '$1' in"
	machine_args "$(machine_memory)"
	talk_args paste
	quote "${qemu_args[@]}" >"$run/cmdline"
	if [[ $GMEM_DRY ]]; then
		cat "$run/cmdline"
		return
	fi
	machine_args "$(machine_memory)"
	talk_args
	boot_limit=${GMEM_BOOT_SECONDS:-$(scaled "$boot_seconds")}
	trap end_helpers EXIT
	trap 'exit 130' INT TERM
	open_input
	start_machine
	limit=$(init_limit)
	if [[ $opt_boot_once ]] || ((limit > boot_limit)); then limit=; fi
	follow_report "$limit"
	if [[ $outcome == hung ]]; then
		start_again
		follow_report ""
	fi
	stop_machine
	end_helpers
	judge
}

# Start a machine that hung before init once more, and say so. Its console is kept. ./gmem check,
# which counts such machines, says in GMEM_RESTARTS where to note them down.
start_again() {
	stop_machine
	helpers=("${helpers[0]}")	# the process that feeds the input goes on
	hung=$run/console.hung
	mv "$run/console" "$hung"
	: >"$run/console"
	rm -f "$run"/{report,stdout,stderr}
	console_end=""
	note "the machine hung before init: started once more (console: $hung)"
	[[ ! ${GMEM_RESTARTS:-} ]] || echo "$hung" >>"$GMEM_RESTARTS"
	start_machine
}

# Exit with the status of the run, and say why, most important reason first.
judge() {
	local problems where="outside the command"
	reached_init || where="before init${hung:+, twice}"
	problems=$(find_problems)
	printf '%s\n' "outcome ${outcome}" "status ${status}" ${hung:+"hung before init, and started once more"} \
		"${problems:-clean}" >"$run/verdict"
	[[ $problems ]] || echo "console: clean; taint: $(sed -n 's/^taint //p' "$run/report" 2>/dev/null)$(
		[[ ! $opt_pools ]] || echo "; huge pages: as before")" >"$run/summary"
	case $outcome in
	timeout) note "'${run_cmd[0]-}' took longer than $opt_timeout s" ;;
	stuck)
		note "the machine hung $where"
		# Show where the boot was, for users who get to see this and nothing else.
		reached_init || tail -n 40 "$run/console" | sed 's/^/console: /' >&2
		;;
	error) note "$reason" ;;
	died) note "the machine went away without a status" ;;
	esac
	[[ $outcome == ended ]] && [[ -z $problems ]] && exit "$status"
	[[ -z $problems ]] || note "$problems"
	[[ $outcome != died || -s $run/console ]] || cat "$run/qemu.log" >&2
	note "console: $run/console"
	[[ $outcome != timeout ]] || exit "$EXIT_TIMEOUT"
	exit "$EXIT_FAIL"
}

# Print one line for each thing that is wrong besides the status.
find_problems() {
	local taint line
	splats <(head -c "${console_end:-1G}" "$run/console") ${opt_splats[@]+"${opt_splats[@]}"} \
		${opt_required[@]+"${opt_required[@]}"} | head -n 10 | sed 's/^/kernel: /'
	missing_splats "$run/console" ${opt_required[@]+"${opt_required[@]}"} |
		sed 's/^/expected on the console, but missing: /'
	taint=$(sed -n 's/^taint //p' "$run/report" 2>/dev/null)
	if [[ $taint ]]; then
		line=$(unexpected_taint "$taint" "$opt_taint")
		[[ -z $line ]] || echo "kernel tainted: $line"
	fi
	if [[ $opt_pools && $outcome == ended ]]; then
		pool_errors "$run/report" | sed 's/^/huge pages not as before: /'
		unit_errors "$run/report" | sed 's/^/guest_memfd: /'
	fi
	if [[ $opt_tap && $outcome == ended && $status != "$EXIT_SKIP" ]]; then
		plan_errors "$opt_plan" "$run/stdout" | sed 's/^/test output: /'
	fi
}
