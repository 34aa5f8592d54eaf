# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Judge whether a run was good. A status alone proves little: the console must be clean, the kernel
# untainted, the pools as they were, and a plan that was announced kept.

# Text that a healthy kernel does not print: the union of what rcutorture and blktests look for, and
# what our debug options print. Each match begins a report.
splat_regex='WARNING:|BUG:|BUG at |kernel BUG|Oops|KASAN|KCSAN|UBSAN|kmemleak: [0-9]+ new'
splat_regex+='|general protection fault|Unable to handle kernel|Internal error'
splat_regex+='|Kernel panic|Bad page state|Bad rss-counter|VM_BUG_ON|page dumped because'
splat_regex+='|INFO: (task|rcu|possible|suspicious|trying|lockdep|NMI|inconsistent)'
splat_regex+='|suspicious RCU usage|possible circular locking|possible recursive locking'
splat_regex+='|possible irq lock inversion|inconsistent lock state|held lock freed'
splat_regex+='|self-detected stall|detected stalls|soft lockup|hard LOCKUP|blocked for more than'
splat_regex+='|sleeping function called from invalid context|scheduling while atomic'
splat_regex+='|list_(add|del) corruption|refcount_t:|DEBUG_LOCKS_WARN_ON|Out of memory'
splat_regex+='|unchecked MSR access|!!!|Badness'

# splats CONSOLE REGEX...: print the lines that begin an unexpected report. A trace belongs to the
# report above it; a trace that stands alone is a report of its own.
splats() {
	local console=$1
	shift
	SPLAT=$splat_regex EXPECTED=$(printf '%s\n' "$@") awk '
	BEGIN {
		splat = ENVIRON["SPLAT"]
		n = split(ENVIRON["EXPECTED"], expected, "\n")
	}
	{ sub(/\r$/, ""); known = 0 }
	{ for (i = 1; i <= n; i++) if (expected[i] != "" && $0 ~ expected[i]) known = 1 }
	known { last = NR; excused = 1; next }
	$0 ~ splat {
		# Lines within an expected report (its own WARNING below "cut here", say) are
		# judged by themselves: what is expected names them all.
		print; last = NR; excused = 0; next
	}
	/Call [Tt]race:/ {
		if (!last || NR - last > 60)
			print "trace without a report: " prev " / " $0
		last = NR
	}
	{ prev = $0 }' "$console"
}

# missing_splats CONSOLE REGEX...: print the reports that a test must provoke, and did not.
missing_splats() {
	local console=$1 regex
	shift
	for regex; do
		[[ -z $regex ]] || grep -qE -- "$regex" "$console" || echo "$regex"
	done
}

# The kernel's taint letters, by bit (Documentation/admin-guide/tainted-kernels.rst).
taint_letters=PFSRMBUDAWCIOELKXTNJ

# unexpected_taint NUMBER LETTERS: print the letters that are set in NUMBER beyond LETTERS.
unexpected_taint() {
	local n=$1 allowed=$2 i letter out=
	for ((i = 0; i < ${#taint_letters}; i++)); do
		letter=${taint_letters:i:1}
		(((n >> i) & 1)) && [[ $allowed != *"$letter"* ]] && out+=$letter
	done
	echo "$out"
}

# plan_errors REQUIRED FILE: print what is wrong with the (K)TAP in a program's output. A plan, if
# there is one, must be kept, at every level of nesting.
plan_errors() {
	awk -v required="$1" '
	function close_to(depth) {
		while (top > depth) {
			if (has[top] && seen[top] != plan[top])
				print "plan 1.." plan[top] ", but " seen[top] + 0 " results"
			delete has[top]; delete seen[top]; delete plan[top]
			top--
		}
	}
	{
		sub(/\r$/, "")
		match($0, /^ */)
		depth = RLENGTH + 1
		line = substr($0, depth)
	}
	line ~ /^1\.\.[0-9]+/ {
		close_to(depth - 1)
		top = depth; has[depth] = 1; seen[depth] += 0
		plan[depth] = substr(line, 4) + 0; any = 1
		next
	}
	line ~ /^(not )?ok [0-9]+/ {
		# Results at a level without a plan are a program talking, not a test.
		if (!has[depth])
			next
		close_to(depth)
		seen[depth]++
		if (line ~ /^not ok/ && line !~ /# (SKIP|XFAIL)/)
			print line
		next
	}
	line ~ /^Bail out!/ { print line }
	END {
		close_to(0)
		if (required && !any)
			print "no plan at all"
	}' "$2"
}

# pool_errors CTL: print the huge page counters that did not come back.
pool_errors() {
	diff <(sed -n 's/^pool before //p' "$1") <(sed -n 's/^pool after //p' "$1") |
		sed -n 's/^< \(.*\)/before: \1/p;s/^> \(.*\)/after:  \1/p' |
		sed 's/$/ (node size nr free resv surplus, or pages of vmemmap)/'
}

# unit_errors CTL: print huge pages of guest_memfd that are still split although no file is left,
# and struct pages that are not what they must be.
unit_errors() {
	sed -n 's/^units //p' "$1" | head -n 10
}
