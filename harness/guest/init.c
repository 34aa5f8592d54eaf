// SPDX-License-Identifier: GPL-2.0
/*
 * init - PID 1 of the machine that `gmem run` boots.
 *
 * init mounts the file systems that a test expects, runs one command, copies its
 * input and output, and reports how it ended. Nothing of that goes over the console,
 * which belongs to the kernel. Each stream has a virtio-serial port (gmem.in, gmem.out,
 * gmem.err), and so does the report (gmem.ctl), so that a console full of warnings can
 * neither hide a status nor fake one.
 *
 * First of all, init says on the console that it has started (STARTED), through the
 * kernel's log, which needs no interrupt. A boot that hangs before this line has lost
 * an interrupt of QEMU, and is worth another try; all that comes later is a result.
 *
 * The report is lines of text, in this order:
 *
 *	pool before NODE SIZE NR FREE RESV SURPLUS	one per node and huge page size
 *	start						the command runs from here on
 *	exit N | signal N				how it ended
 *	pool after NODE SIZE NR FREE RESV SURPLUS
 *	units TEXT					a line of guestmem/units, if units are left
 *	taint N						/proc/sys/kernel/tainted
 *	done						nothing is missing
 *
 * or `error TEXT` where the machine is not what was asked for.
 *
 * The initramfs says what to do: /gmem/argv (the command, NUL-terminated strings),
 * /gmem/modules (one name a line), /gmem/hugepages (lines of "kB count", the huge pages
 * that the boot line should have reserved), /gmem/shell (if it exists: a shell on the
 * console instead of a command).
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef __aarch64__
#include <linux/kvm.h>
#endif

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define POOL_TEXT	8192

/* harness/lib/qemu.sh looks for this text. */
#define STARTED		"gmem: init has started"

/* How long to wait for the ports to appear, and for a pool to come back. */
#define PORT_WAIT_MS	20000
#define POOL_WAIT_MS	3000

enum stream { IN, OUT, ERR, CTL, NR_PORTS };

static const char *const port_names[NR_PORTS] = {
	[IN] = "gmem.in", [OUT] = "gmem.out", [ERR] = "gmem.err", [CTL] = "gmem.ctl",
};

static int ports[NR_PORTS] = { -1, -1, -1, -1 };

static const struct {
	const char *source, *target, *type, *data;
} mounts[] = {
	{ "proc", "/proc", "proc", NULL },
	{ "sysfs", "/sys", "sysfs", NULL },
	{ "devtmpfs", "/dev", "devtmpfs", NULL },
	{ "devpts", "/dev/pts", "devpts", "ptmxmode=0666" },
	{ "tmpfs", "/dev/shm", "tmpfs", "mode=1777" },
	{ "hugetlbfs", "/dev/hugepages", "hugetlbfs", NULL },
	{ "tmpfs", "/run", "tmpfs", "mode=0755" },
	{ "debugfs", "/sys/kernel/debug", "debugfs", NULL },
	{ "tracefs", "/sys/kernel/tracing", "tracefs", NULL },
	{ "cgroup2", "/sys/fs/cgroup", "cgroup2", NULL },
};

static void sleep_ms(unsigned int ms)
{
	struct timespec ts = { ms / 1000, (ms % 1000) * 1000000L };

	nanosleep(&ts, NULL);
}

static bool write_all(int fd, const void *buf, size_t len)
{
	const char *p = buf;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		len -= n;
	}
	return true;
}

static void __attribute__((format(printf, 1, 2))) report(const char *fmt, ...)
{
	char line[512];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
	va_end(ap);
	if (n > (int)sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	if (ports[CTL] >= 0)
		write_all(ports[CTL], line, n);
	else
		write_all(STDERR_FILENO, line, n);
}

static void __attribute__((noreturn)) power_off(void)
{
	sync();
	reboot(RB_POWER_OFF);
	/* A return from init would panic the kernel, and look like a crash of its own. */
	for (;;)
		pause();
}

static void __attribute__((noreturn)) give_up(const char *what)
{
	report("error %s: %s", what, strerror(errno));
	power_off();
}

/* Read a whole file into a buffer, which the caller frees. Returns NULL if there is no file. */
static char *slurp(const char *path, size_t *lenp)
{
	size_t size = 0, len = 0;
	char *buf = NULL;
	ssize_t n;
	int fd;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	do {
		if (len + 1 >= size) {
			size = size ? 2 * size : 4096;
			buf = realloc(buf, size);
			if (!buf)
				abort();
		}
		n = read(fd, buf + len, size - len - 1);
		if (n > 0)
			len += n;
	} while (n > 0 || (n < 0 && errno == EINTR));
	close(fd);
	buf[len] = '\0';
	if (lenp)
		*lenp = len;
	return buf;
}

static void spit(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	/* A test will notice if the kernel refuses the text, e.g. for lack of a controller. */
	if (write(fd, text, strlen(text)) < 0)
		fprintf(stderr, "init: %s: %s\n", path, strerror(errno));
	close(fd);
}

/*
 * Say in the kernel's log that init has started. Nothing is mounted yet, so make the
 * device /dev/kmsg, which has the same number everywhere.
 */
static void say_started(void)
{
	mknod("/gmem/kmsg", S_IFCHR | 0600, makedev(1, 11));
	spit("/gmem/kmsg", "<5>" STARTED "\n");
	unlink("/gmem/kmsg");
}

static void mount_all(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(mounts); i++) {
		mkdir(mounts[i].target, 0755);
		/* EBUSY: the kernel mounted devtmpfs itself. ENODEV: not configured. */
		mount(mounts[i].source, mounts[i].target, mounts[i].type, 0, mounts[i].data);
	}
	if (symlink("/proc/self/fd", "/dev/fd") || symlink("/proc/self/fd/0", "/dev/stdin") ||
	    symlink("/proc/self/fd/1", "/dev/stdout") || symlink("/proc/self/fd/2", "/dev/stderr"))
		fprintf(stderr, "init: /dev/fd: %s\n", strerror(errno));

	/* Enable them one by one: a missing controller must not keep the others disabled. */
	spit("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	spit("/sys/fs/cgroup/cgroup.subtree_control", "+hugetlb");
	spit("/sys/fs/cgroup/cgroup.subtree_control", "+cpuset");
}

static void loopback_up(void)
{
	struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	if (ioctl(fd, SIOCSIFFLAGS, &ifr))
		fprintf(stderr, "init: lo: %s\n", strerror(errno));
	close(fd);
}

/* Run a program to its end, with its output on the console. Returns its exit status, or -1. */
static int run(char *const argv[])
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		execv(argv[0], argv);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Load all modules. modprobe takes their parameters (kvm.foo=1) from /proc/cmdline itself. */
static void load_modules(void)
{
	char *list = slurp("/gmem/modules", NULL), *name, *save = NULL;

	if (!list)
		return;
	for (name = strtok_r(list, "\n", &save); name; name = strtok_r(NULL, "\n", &save)) {
		if (run((char *[]){ "/bin/modprobe", name, NULL })) {
			report("error cannot load module %s", name);
			power_off();
		}
	}
	free(list);
}

/*
 * Create a VM and keep it, because KVM patches the scheduler for the first and the last
 * VM: preempt_notifier_key makes the scheduler tell vCPUs that they are scheduled. QEMU
 * 7.2 doesn't keep code from being changed while it translates the code (8.1 does), and
 * may go on with the old code. Then a vCPU runs while KVM thinks that none does, which
 * is a WARNING in mark_page_dirty_in_slot(). Only arm64 needs this, the other kernel
 * has no JUMP_LABEL.
 */
static void keep_vm(void)
{
#ifdef __aarch64__
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	/* Without KVM there is no VM to keep. */
	if (kvm < 0)
		return;
	if (ioctl(kvm, KVM_CREATE_VM, 0UL) < 0)
		fprintf(stderr, "init: /dev/kvm: %s\n", strerror(errno));
	close(kvm);
#endif
}

static int open_port(const char *want)
{
	char path[300], dev[300];
	struct dirent *de;
	int fd = -1;
	DIR *dir;

	dir = opendir("/sys/class/virtio-ports");
	if (!dir)
		return -1;
	while (fd < 0 && (de = readdir(dir))) {
		char *name;

		snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", de->d_name);
		name = slurp(path, NULL);
		if (name && !strncmp(name, want, strlen(want)) &&
		    isspace((unsigned char)name[strlen(want)])) {
			snprintf(dev, sizeof(dev), "/dev/%s", de->d_name);
			fd = open(dev, O_RDWR | O_CLOEXEC);
		}
		free(name);
	}
	closedir(dir);
	return fd;
}

/* Open all ports. They are announced one after the other, after the device's probe. */
static void open_ports(void)
{
	unsigned int waited = 0;
	int i;

	for (i = NR_PORTS - 1; i >= 0; i--) {
		while ((ports[i] = open_port(port_names[i])) < 0) {
			if (waited >= PORT_WAIT_MS)
				give_up(port_names[i]);
			sleep_ms(10);
			waited += 10;
		}
	}
}

static long read_number(const char *dir, const char *file)
{
	char path[512], *text;
	long val = -1;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	text = slurp(path, NULL);
	if (text)
		val = strtol(text, NULL, 10);
	free(text);
	return val;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

/* Append one line for each huge page size of @base, the pools of node @node. */
static void pool_of_node(char *text, const char *base, const char *node)
{
	struct dirent **list;
	int i, nr;

	nr = scandir(base, &list, NULL, by_name);
	for (i = 0; i < nr; i++) {
		const char *name = list[i]->d_name;
		size_t used = strlen(text);
		char dir[400];

		snprintf(dir, sizeof(dir), "%s/%s", base, name);
		if (!strncmp(name, "hugepages-", 10))
			snprintf(text + used, POOL_TEXT - used, "%s %s %ld %ld %ld %ld\n",
				 node, name + 10,
				 read_number(dir, "nr_hugepages"),
				 read_number(dir, "free_hugepages"),
				 /* -1 for a node, which has no such counter */
				 read_number(dir, "resv_hugepages"),
				 read_number(dir, "surplus_hugepages"));
		free(list[i]);
	}
	if (nr >= 0)
		free(list);
}

/* Append a line with the number of pages that have struct pages. */
static void read_vmemmap(char *text)
{
	char *vmstat = slurp("/proc/vmstat", NULL), *line, *save = NULL;
	size_t used = strlen(text);
	long nr, sum = 0;

	if (!vmstat)
		return;
	for (line = strtok_r(vmstat, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (sscanf(line, "nr_memmap_pages %ld", &nr) == 1 ||
		    sscanf(line, "nr_memmap_boot_pages %ld", &nr) == 1)
			sum += nr;
	}
	snprintf(text + used, POOL_TEXT - used, "all vmemmap %ld\n", sum);
	free(vmstat);
}

static void read_pools(char *text)
{
	struct dirent **list;
	int i, nr;

	text[0] = '\0';
	pool_of_node(text, "/sys/kernel/mm/hugepages", "all");
	nr = scandir("/sys/devices/system/node", &list, NULL, by_name);
	for (i = 0; i < nr; i++) {
		char base[400];

		snprintf(base, sizeof(base), "/sys/devices/system/node/%s/hugepages",
			 list[i]->d_name);
		if (!strncmp(list[i]->d_name, "node", 4))
			pool_of_node(text, base, list[i]->d_name);
		free(list[i]);
	}
	if (nr >= 0)
		free(list);
	read_vmemmap(text);
}

static void report_pools(const char *when, const char *text)
{
	char *copy = strdup(text), *line, *save = NULL;

	for (line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		report("pool %s %s", when, line);
	free(copy);
}

/* Check that the boot line has reserved its huge pages, which the command relies on. */
static void check_reserved(void)
{
	char *list = slurp("/gmem/hugepages", NULL), *line, *save = NULL;

	if (!list)
		return;
	for (line = strtok_r(list, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		unsigned long kib, want;
		char dir[128];
		long have;

		if (sscanf(line, "%lu %lu", &kib, &want) != 2)
			continue;
		snprintf(dir, sizeof(dir), "/sys/kernel/mm/hugepages/hugepages-%lukB", kib);
		have = read_number(dir, "nr_hugepages");
		if (have != (long)want) {
			report("error %ld of %lu huge pages of %lu kB reserved; more memory: --mem",
			       have < 0 ? 0 : have, want, kib);
			power_off();
		}
	}
	free(list);
}

static char **load_argv(void)
{
	size_t len, nr = 0, i;
	char *text = slurp("/gmem/argv", &len), *p;
	char **argv;

	if (!text || !len) {
		report("error no command in /gmem/argv");
		power_off();
	}
	for (i = 0; i < len; i++)
		nr += !text[i];
	argv = calloc(nr + 1, sizeof(*argv));
	for (i = 0, p = text; i < nr; i++, p += strlen(p) + 1)
		argv[i] = p;
	return argv;
}

static volatile sig_atomic_t child_ended;

static void on_sigchld(int sig)
{
	(void)sig;
	child_ended = 1;
}

static pid_t start(char **argv, int pipes[3][2])
{
	sigset_t none;
	pid_t pid;

	pid = fork();
	if (pid < 0)
		give_up("fork");
	if (pid)
		return pid;

	dup2(pipes[IN][0], STDIN_FILENO);
	dup2(pipes[OUT][1], STDOUT_FILENO);
	dup2(pipes[ERR][1], STDERR_FILENO);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGCHLD, SIG_DFL);
	signal(SIGPIPE, SIG_DFL);
	setsid();
	execvp(argv[0], argv);
	dprintf(STDERR_FILENO, "init: cannot run %s: %s\n", argv[0], strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

/* Copy the data that is there. Returns false once there will be no more. */
static bool copy_once(int from, int to)
{
	char buf[65536];
	ssize_t n = read(from, buf, sizeof(buf));

	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	return n > 0 && write_all(to, buf, n);
}

/* Copy the data that is left in a pipe. Don't wait for its end: a child may keep it open. */
static void drain(int from, int to)
{
	struct pollfd pfd = { .fd = from, .events = POLLIN };

	while (poll(&pfd, 1, 0) > 0 && (pfd.revents & POLLIN))
		if (!copy_once(from, to))
			return;
}

/* Feed the command from a process of its own, which may block for as long as it likes. */
static pid_t feed(int to)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	signal(SIGPIPE, SIG_DFL);
	while (copy_once(ports[IN], to))
		;
	_exit(0);
}

static int run_command(char **argv)
{
	int pipes[3][2], status = -1, wstatus, i;
	struct pollfd pfd[2];
	sigset_t blocked, unblocked;
	pid_t pid, feeder, gone;

	for (i = IN; i <= ERR; i++)
		if (pipe2(pipes[i], O_CLOEXEC))
			give_up("pipe");

	sigemptyset(&blocked);
	sigaddset(&blocked, SIGCHLD);
	sigprocmask(SIG_BLOCK, &blocked, &unblocked);
	signal(SIGCHLD, on_sigchld);
	signal(SIGPIPE, SIG_IGN);

	report("start");
	pid = start(argv, pipes);
	close(pipes[IN][0]);
	close(pipes[OUT][1]);
	close(pipes[ERR][1]);
	feeder = feed(pipes[IN][1]);
	close(pipes[IN][1]);

	pfd[0] = (struct pollfd){ .fd = pipes[OUT][0], .events = POLLIN };
	pfd[1] = (struct pollfd){ .fd = pipes[ERR][0], .events = POLLIN };
	for (;;) {
		if (ppoll(pfd, 2, NULL, &unblocked) > 0)
			for (i = 0; i < 2; i++)
				if (pfd[i].revents && !copy_once(pfd[i].fd, ports[OUT + i]))
					pfd[i].fd = -1;
		if (!child_ended)
			continue;
		child_ended = 0;
		while ((gone = waitpid(-1, &wstatus, WNOHANG)) > 0)
			if (gone == pid)
				status = wstatus;
		if (status != -1)
			break;
	}
	drain(pipes[OUT][0], ports[OUT]);
	drain(pipes[ERR][0], ports[ERR]);
	kill(feeder, SIGKILL);
	return status;
}

/* Kill all processes that the command has left running, as they would be taken for a leak. */
static void kill_the_rest(void)
{
	kill(-1, SIGKILL);
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
		;
}

/*
 * Return the list of guest_memfd's split huge pages, or NULL if it is empty or the
 * kernel has none. The kernel checks their struct pages when the list is read. Without
 * any file there must be no split huge page.
 */
static char *read_units(void)
{
	char *units = slurp("/sys/kernel/debug/guestmem/units", NULL);

	if (units && !strcmp(units, "0 units, 0 bad\n")) {
		free(units);
		units = NULL;
	}
	return units;
}

static void report_units(char *units)
{
	char *line, *next = units;

	while ((line = strsep(&next, "\n")))
		if (*line)
			report("units %s", line);
}

static void report_end(int status, const char *before)
{
	char after[POOL_TEXT];
	unsigned int waited = 0;
	char *taint, *units;

	if (WIFSIGNALED(status))
		report("signal %d", WTERMSIG(status));
	else
		report("exit %d", WEXITSTATUS(status));

	/* A page that comes back through a worker is late, not lost. */
	for (;;) {
		read_pools(after);
		units = read_units();
		if ((!strcmp(before, after) && !units) || waited >= POOL_WAIT_MS)
			break;
		free(units);
		sleep_ms(50);
		waited += 50;
	}
	report_pools("after", after);
	if (units)
		report_units(units);
	free(units);

	taint = slurp("/proc/sys/kernel/tainted", NULL);
	report("taint %ld", taint ? strtol(taint, NULL, 10) : -1);
	free(taint);
	report("done");
}

static void __attribute__((noreturn)) shell(void)
{
	char *const argv[] = { "/bin/setsid", "/bin/cttyhack", "/bin/sh", "-l", NULL };

	run(argv);
	power_off();
}

int main(void)
{
	char *const install[] = { "/bin/busybox", "--install", "-s", "/bin", NULL };
	char before[POOL_TEXT];
	int status;

	say_started();
	umask(022);
	mount_all();
	run(install);
	loopback_up();
	if (chdir("/") || sethostname("gmem", 4))
		fprintf(stderr, "init: %s\n", strerror(errno));
	setenv("PATH", "/bin:/sbin:/usr/bin:/usr/sbin:/", 1);
	setenv("HOME", "/root", 1);
	setenv("TERM", "linux", 0);
	if (!access("/gmem/shell", F_OK)) {
		load_modules();
		shell();
	}

	open_ports();
	load_modules();
	keep_vm();
	check_reserved();
	read_pools(before);
	report_pools("before", before);
	status = run_command(load_argv());
	kill_the_rest();
	report_end(status, before);
	power_off();
}
