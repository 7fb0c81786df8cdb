#define _GNU_SOURCE
#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "settings.h"

/* The directory, made if need be; -1 unless it is root's alone (or, in a test, the caller's). */
static int open_state(const char *path, bool make)
{
	struct stat about;
	char part[SETTINGS_MAX_PATH];
	int fd;

	for (size_t i = 1; make && path[i]; i++)
		if (path[i] == '/' || !path[i + 1]) {
			size_t length = path[i] == '/' ? i : i + 1;
			memcpy(part, path, length);
			part[length] = '\0';
			if (mkdir(part, 0755) != 0 && errno != EEXIST)
				return -1;
		}
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0 && (fstat(fd, &about) != 0 || about.st_uid != geteuid() || (about.st_mode & 022))) {
		close(fd);
		errno = EPERM;
		return -1;
	}
	return fd;
}

const char *record_write(const char *state, uint32_t job, const record *what)
{
	char text[4 * RECORD_VALUE], name[32], fresh[48];
	int length = snprintf(text, sizeof(text), "partition=%s\naccount=%s\ngpus=%s\n", what->partition, what->account,
			      what->gpus);
	int dir = open_state(state, true);
	int fd;

	if (dir < 0)
		return "its state directory cannot be used";
	snprintf(name, sizeof(name), "%" PRIu32, job);
	snprintf(fresh, sizeof(fresh), ".%" PRIu32 ".new", job);
	unlinkat(dir, fresh, 0);
	fd = openat(dir, fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	bool written = fd >= 0 && write(fd, text, (size_t)length) == length;
	if (fd >= 0)
		close(fd);
	written = written && renameat(dir, fresh, dir, name) == 0;
	if (!written)
		unlinkat(dir, fresh, 0);
	close(dir);
	return written ? NULL : "the record of the job cannot be written";
}

static void take_value(char out[RECORD_VALUE], const char *text, const char *key)
{
	const char *at = strstr(text, key);
	size_t length;

	if (!at)
		return;
	at += strlen(key);
	length = strcspn(at, "\n");
	if (length < RECORD_VALUE) {
		memcpy(out, at, length);
		out[length] = '\0';
	}
}

void record_read(const char *state, uint32_t job, record *out)
{
	char text[4 * RECORD_VALUE + 1], name[32];
	struct stat about;
	ssize_t got = -1;
	int dir = open_state(state, false);
	int fd = -1;

	memset(out, 0, sizeof(*out));
	snprintf(name, sizeof(name), "%" PRIu32, job);
	if (dir >= 0) {
		fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
		close(dir);
	}
	if (fd >= 0) {
		if (fstat(fd, &about) == 0 && S_ISREG(about.st_mode) && about.st_uid == geteuid())
			got = read(fd, text, sizeof(text) - 1);
		close(fd);
	}
	if (got <= 0)
		return;
	text[got] = '\0';
	take_value(out->partition, text, "partition=");
	take_value(out->account, text, "account=");
	take_value(out->gpus, text, "gpus=");
	out->known = true;
}

void record_remove(const char *state, uint32_t job)
{
	char name[32];
	int dir = open_state(state, false);

	if (dir < 0)
		return;
	snprintf(name, sizeof(name), "%" PRIu32, job);
	unlinkat(dir, name, 0);
	close(dir);
}
