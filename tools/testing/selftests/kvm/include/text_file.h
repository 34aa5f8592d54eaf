/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Small files of the kernel that have a line of text.
 */
#ifndef SELFTEST_KVM_TEXT_FILE_H
#define SELFTEST_KVM_TEXT_FILE_H

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

/* Read at most @size - 1 bytes of the first line.  Returns false if there are none. */
static inline bool read_text_file(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY);
	ssize_t len;

	if (fd < 0)
		return false;
	len = read(fd, text, size - 1);
	close(fd);
	if (len <= 0)
		return false;
	text[len] = '\0';
	text[strcspn(text, "\n")] = '\0';
	return true;
}

/* Write all of @text.  Returns false if there is no such file, or if it doesn't take it. */
static inline bool write_text_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_TRUNC);
	ssize_t len = strlen(text), written;

	if (fd < 0)
		return false;
	written = write(fd, text, len);
	close(fd);
	return written == len;
}

#endif /* SELFTEST_KVM_TEXT_FILE_H */
