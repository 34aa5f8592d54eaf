# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Start a machine, and follow it to its end.

use guest timeouts verdict

now_ms() {
	echo $((${EPOCHREALTIME/[.,]/} / 1000))
}

# machine_memory: print the memory of the machine in MiB: what --mem asks for, or enough for all
# huge pages that are reserved and 4G besides.
machine_memory() {
	local kb=0 size count gib
	if [[ $opt_mem ]]; then
		echo $(($(size_kb "$opt_mem") / 1024))
		return
	fi
	while read -r size count; do
		kb=$((kb + size * count))
	done < <(hugepage_list "$opt_hugepages")
	# Round up to whole GiB: 1G pages are aligned, and memory that is left over below one is
	# lost.
	gib=$(((kb + 1048575) / 1048576))
	echo $((4096 + gib * 1024))
}

boot_line() {
	local line="console=$console printk.devkmsg=on panic=-1 oops=panic" entry
	[[ -z $cmdline ]] || line+=" $cmdline"
	for entry in ${opt_hugepages//,/ }; do
		line+=" hugepagesz=${entry%=*} hugepages=${entry#*=}"
	done
	for entry in ${opt_append[@]+"${opt_append[@]}"}; do
		line+=" $entry"
	done
	echo "$line"
}

# numa_args MEM: split processors and memory into $opt_numa equal nodes.
numa_args() {
	local mem=$1 i first last
	((opt_numa > 1)) || return 0
	for ((i = 0; i < opt_numa; i++)); do
		qemu_args+=(-object "memory-backend-ram,id=node$i,size=$((mem / opt_numa))M")
		first=$((i * opt_smp / opt_numa))
		last=$(((i + 1) * opt_smp / opt_numa - 1))
		if ((last >= first)); then
			qemu_args+=(-numa "node,nodeid=$i,memdev=node$i,cpus=$first-$last")
		else
			qemu_args+=(-numa "node,nodeid=$i,memdev=node$i")
		fi
	done
}

# machine_args MEM: set qemu_args to everything but the console and ports of talk_args.
machine_args() {
	local disk
	qemu_args=("$qemu" "${machine[@]}" -nodefaults -no-user-config -display none -no-reboot)
	if [[ $opt_icount ]]; then
		qemu_args+=(-accel "tcg,thread=single" -icount "shift=0,sleep=off")
	else
		qemu_args+=(-accel "tcg,thread=multi")
	fi
	# A node has sockets of its own; a socket in two nodes would make the kernel complain.
	if ((opt_numa > 1)); then
		qemu_args+=(-smp "$opt_smp,sockets=$opt_smp,cores=1,threads=1")
	else
		qemu_args+=(-smp "$opt_smp")
	fi
	qemu_args+=(-m "$1M")
	numa_args "$1"
	for disk in ${opt_disks[@]+"${opt_disks[@]}"}; do
		qemu_args+=(-drive "file=$disk,format=raw,if=virtio,snapshot=on")
	done
	qemu_args+=(-kernel "$kernel" -initrd "$run/initrd" -append "$(boot_line)")
}

# talk_args [paste]: add the console and four ports, all in the run's directory. All output ends up
# in plain files: no slow reader can stall the machine, and everything is kept. The input is QEMU's
# standard input: of its devices only that one passes an end of file on. "talk_args paste" is for a
# command line to be pasted: the same machine without a process at the other end.
talk_args() {
	local name report=report.fifo
	if [[ ${1-} == paste ]]; then
		report=report
		qemu_args+=(-chardev "file,id=console,path=$run/console")
	else
		qemu_args+=(-chardev "pipe,id=console,path=$run/tty"
			-chardev "pipe,id=monitor,path=$run/monitor"
			-mon "chardev=monitor,mode=readline")
	fi
	qemu_args+=(
		-serial chardev:console
		-device "virtio-serial-pci,id=ports"
		-chardev "stdio,id=in,signal=off"
		-chardev "file,id=out,path=$run/stdout"
		-chardev "file,id=err,path=$run/stderr"
		-chardev "file,id=ctl,path=$run/$report"
	)
	for name in in out err ctl; do
		qemu_args+=(-device "virtserialport,bus=ports.0,chardev=$name,name=gmem.$name")
	done
}

# Processes of this run. They are ended by their numbers when it ends, however it ends.
helpers=()

end_helpers() {
	local pid
	for pid in ${helpers[@]+"${helpers[@]}"}; do
		kill "$pid" 2>/dev/null || :
	done
	wait 2>/dev/null || :
	helpers=()
}

# open_input: set input_fd to the input of the machine, a pipe. We keep an end of the pipe, so that
# its contents are there for the next machine when one hangs. No machine reads the input before init
# has opened its port.
open_input() {
	local feed=/dev/null pipe=$run/stdin both write_fd
	# A terminal belongs to the user (./gmem shell is for that); all else is the
	# command's input.
	[[ -t 0 ]] || feed=/dev/stdin
	mkfifo "$pipe"
	# With the pipe open for both, opening one end does not wait for the other.
	exec {both}<>"$pipe"
	exec {write_fd}>"$pipe"
	exec {input_fd}<"$pipe"
	exec {both}>&-
	rm -f "$pipe"
	cat <"$feed" >&"$write_fd" 2>/dev/null {write_fd}>&- {input_fd}<&- &
	helpers+=($!)
	exec {write_fd}>&-
}

# follow FILE FD: copy all that is appended to FILE to FD, until the machine is gone.
follow() {
	: >>"$1"	# it may not be there yet
	tail -q -c +1 -s 0.1 -f --pid="$qemu_pid" "$1" >&"$2" &
	followers+=($!)
}

start_machine() {
	mkfifo "$run"/{tty.in,tty.out,monitor.in,monitor.out,report.fifo}
	# Keep these open at both ends, so that opening never waits for the other side.
	exec {report_fd}<>"$run/report.fifo" {console_fd}<>"$run/tty.in" \
		{monitor_fd}<>"$run/monitor.in"
	cat "$run/monitor.out" >"$run/monitor" 2>/dev/null &
	helpers+=($!)
	cat "$run/tty.out" >"$run/console" &
	followers=($!)
	helpers+=($!)
	"${qemu_args[@]}" <&"$input_fd" >"$run/qemu.log" 2>&1 &
	qemu_pid=$!
	helpers+=("$qemu_pid")
	follow "$run/stdout" 1
	follow "$run/stderr" 2
	[[ ! $GMEM_VERBOSE ]] || follow "$run/console" 2
}

alive() {
	kill -0 "$qemu_pid" 2>/dev/null
}

# Ask the kernel what every task is doing, for the log; it has two seconds to answer. The console
# from here on is that answer, and no report of the kernel's own.
ask_for_traces() {
	console_end=$(stat -c %s "$run/console")
	echo "chardev-send-break console" >&"$monitor_fd"
	sleep 0.3
	echo -n t >&"$console_fd"
	sleep 2
}

# reached_init: true if init has started. It is the first to write to the report, and before that it
# writes to the console.
reached_init() {
	[[ -s $run/report ]] || grep -qs "gmem: init has started" "$run/console"
}

# lost_interrupt: true if a boot that takes too long may have lost an interrupt. The kernel then
# says nothing, or only that nothing moves on; any other complaint is a result.
lost_interrupt() {
	! reached_init && [[ ! $(splats "$run/console" "rcu: INFO: rcu_" "self-detected stall" \
		"detected stalls" "starved for .* jiffies") ]]
}

# too_long: decide what to do with a phase that has passed its deadline. True if the machine is
# given up, and outcome is set; false if there is another deadline.
too_long() {
	outcome=stuck
	case $phase in
	first)
		if lost_interrupt; then
			outcome=hung
		else
			phase=boot outcome=died
			deadline=$((deadline + 1000 * (boot_limit - init_limit)))
		fi
		;;
	command) outcome=timeout ;;
	esac
	[[ $outcome != died ]]
}

# follow_report INIT_LIMIT: read the report to its end. Sets outcome to ended, died, timeout, stuck
# or error, or to hung if there is an INIT_LIMIT and it passes without a word from init. Sets status
# to what the command returned.
follow_report() {
	local line part="" deadline phase=boot init_limit=${1:-$boot_limit}
	[[ ! $1 ]] || phase=first
	outcome=died status=
	deadline=$(($(now_ms) + 1000 * init_limit))
	while :; do
		if read -r -t 0.2 line <&"$report_fd"; then
			line=$part$line part=""
			echo "$line" >>"$run/report"
			case $line in
			start)
				phase="command"
				deadline=$(($(now_ms) + 1000 * opt_timeout))
				;;
			"exit "*) status=${line#exit } phase=end ;;
			"signal "*) status=$((128 + ${line#signal })) phase=end ;;
			"error "*) outcome=error; reason=${line#error }; return ;;
			done) outcome=ended; return ;;
			esac
			[[ $phase != end ]] || deadline=$(($(now_ms) + 1000 * boot_limit))
			continue
		fi
		part+=$line
		if ! alive; then
			# The machine may have said more between our last look and its end.
			read -r -t 0.01 line <&"$report_fd" || return 0
			part+=$line$'\n'
			drain_report "$part"
			return 0
		fi
		if [[ $phase != command || $opt_timeout != 0 ]] &&
		   (($(now_ms) > deadline)) && too_long; then
			ask_for_traces
			return
		fi
	done
}

# drain_report TEXT: take TEXT and the rest of the report of a machine that is gone.
drain_report() {
	local line
	{ printf '%s' "$1"; timeout 0.2 cat <&"$report_fd" || :; } >"$run/report.rest"
	while read -r line; do
		echo "$line" >>"$run/report"
		case $line in
		"exit "*) status=${line#exit } ;;
		"signal "*) status=$((128 + ${line#signal })) ;;
		"error "*) outcome=error; reason=${line#error } ;;
		done) outcome=ended ;;
		esac
	done <"$run/report.rest"
	rm -f "$run/report.rest"
}

# Wait until the machine has powered off by itself (that is part of the test), but not for ever.
stop_machine() {
	local deadline
	deadline=$(($(now_ms) + 1000 * boot_limit))
	if [[ $outcome == ended || $outcome == error ]]; then
		while alive && (($(now_ms) < deadline)); do
			sleep 0.05
		done
		if alive; then
			outcome=stuck
			ask_for_traces
		fi
	fi
	kill "$qemu_pid" 2>/dev/null || :
	wait "$qemu_pid" 2>/dev/null || :
	# The followers end by themselves, once they have copied the last byte.
	wait "${followers[@]}" 2>/dev/null || :
	exec {report_fd}>&- {console_fd}>&- {monitor_fd}>&-
	rm -f "$run"/{tty.in,tty.out,monitor.in,monitor.out,report.fifo}
}
