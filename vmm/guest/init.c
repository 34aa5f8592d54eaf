// SPDX-License-Identifier: GPL-2.0
/*
 * The guest's first process: mounts the file systems that programs need, then runs the lines of
 * /programs one after the other. The first line that fails ends the process; the VMM gets the
 * exit status of that line through a port.
 *
 * Two lines are built in: "echo TEXT", and "hot-add". The latter makes the private memory that the
 * VMM put at private=BASE,SIZE (a word of the kernel's command line, which the kernel hands to
 * us in the environment) memory of this Linux. Each block goes online as movable memory
 * (memhp_default_state=), so that the kernel puts user pages there and nothing else.
 *
 * The root file system is a ramfs because its pages are not movable: so all program text is in
 * ordinary memory, where KVM can fetch the instructions it has to emulate (glibc asks CPUID when
 * it starts).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "port.h"

#define MAX_WORDS	32
#define MEMORY_SYSFS	"/sys/devices/system/memory/"

static void __attribute__((noreturn)) finish(int status)
{
	fflush(stdout);
	/* The console's output must be out before the VMM ends us. */
	usleep(20000);
	outb(status, PORT_STATUS);
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

static void __attribute__((noreturn)) fail(const char *what)
{
	printf("init: %s: %s\n", what, strerror(errno));
	finish(1);
}

static void mount_at(const char *type, const char *dir)
{
	mkdir(dir, 0755);
	if (mount(type, dir, type, 0, NULL) < 0)
		fail(dir);
}

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		fail(path);
	close(fd);
}

static unsigned long read_number(const char *path, const char *fmt)
{
	unsigned long value;
	FILE *file = fopen(path, "r");

	if (!file || fscanf(file, fmt, &value) != 1)
		fail(path);
	fclose(file);
	return value;
}

static int hot_add(void)
{
	unsigned long base, size, block, before, after;
	const char *private = getenv("private");
	char text[32];

	if (!private || sscanf(private, "%lx,%lx", &base, &size) != 2) {
		printf("init: no private=BASE,SIZE on the command line\n");
		return 1;
	}
	block = read_number(MEMORY_SYSFS "block_size_bytes", "%lx");
	before = read_number("/proc/meminfo", "MemTotal: %lu");
	for (unsigned long addr = base; addr < base + size; addr += block) {
		snprintf(text, sizeof(text), "0x%lx", addr);
		write_text(MEMORY_SYSFS "probe", text);
	}
	after = read_number("/proc/meminfo", "MemTotal: %lu");
	printf("hot-added %lu blocks of %lu MiB as movable memory: MemTotal %lu -> %lu MiB\n",
	       size / block, block >> 20, before >> 10, after >> 10);
	return (after - before) << 10 == size ? 0 : 1;
}

static int run_program(char **argv)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		execv(argv[0], argv);
		printf("init: %s: %s\n", argv[0], strerror(errno));
		fflush(stdout);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		fail(argv[0]);
	if (WIFSIGNALED(status)) {
		printf("init: %s: %s\n", argv[0], strsignal(WTERMSIG(status)));
		return 128 + WTERMSIG(status);
	}
	return WEXITSTATUS(status);
}

static int run_line(char *line)
{
	char *argv[MAX_WORDS + 1], *save = NULL;
	int argc = 0, status;

	if (!strncmp(line, "echo ", 5)) {
		fputs(line + 5, stdout);
		return 0;
	}
	for (char *word = strtok_r(line, "\n ", &save); word && argc < MAX_WORDS;
	     word = strtok_r(NULL, "\n ", &save))
		argv[argc++] = word;
	argv[argc] = NULL;
	if (!argc || argv[0][0] == '#')
		return 0;
	status = strcmp(argv[0], "hot-add") ? run_program(argv) : hot_add();
	if (status)
		printf("init: %s: exit status %d\n", argv[0], status);
	return status;
}

int main(void)
{
	char line[512];
	FILE *programs;
	int status = 0;

	/* For the port, here and in every program. */
	if (iopl(3) < 0)
		fail("iopl");
	mount_at("proc", "/proc");
	mount_at("sysfs", "/sys");
	mount_at("devtmpfs", "/dev");
	mkdir("/tmp", 01777);
	setvbuf(stdout, NULL, _IOLBF, 0);

	programs = fopen("/programs", "r");
	if (!programs)
		fail("/programs");
	while (!status && fgets(line, sizeof(line), programs))
		status = run_line(line);
	finish(status);
}
