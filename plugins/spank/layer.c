#define _GNU_SOURCE
#include "layer.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "exit_status.h"

#define HANDOVER_MS 3000 /* the step before needs a moment to end after its last task */

bool layer_is_name(const char *name)
{
	size_t length = strnlen(name, LAYER_NAME + 1);

	if (length == 0 || length > LAYER_NAME || !isalnum((unsigned char)name[0]))
		return false;
	for (size_t i = 0; i < length; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("._-", name[i]))
			return false;
	return true;
}

bool layer_identity(char out[LAYER_IDENTITY], const char *path, int image)
{
	const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	size_t length = strlen(name);
	struct stat about;
	int written;

	if (strncmp(name, "sha256-", 7) == 0) {
		if (length > 5 && strcmp(name + length - 5, ".sqsh") == 0)
			length -= 5;
		written = snprintf(out, LAYER_IDENTITY, "%.*s", (int)length, name);
	} else {
		if (fstat(image, &about) != 0)
			return false;
		written = snprintf(out, LAYER_IDENTITY, "%s %lld %lld", path, (long long)about.st_size,
				   (long long)about.st_mtim.tv_sec * 1000000000LL + about.st_mtim.tv_nsec);
	}
	return written > 0 && written < LAYER_IDENTITY;
}

static int failed(char problem[LAYER_PROBLEM], int status, const char *what, const char *name, const char *why)
{
	snprintf(problem, LAYER_PROBLEM, "%s %.160s: %s", what, name, why);
	return status;
}

/* A full disk and a used-up quota pass. */
static int of_disk(char problem[LAYER_PROBLEM], const char *what, const char *name)
{
	int cause = errno;

	return failed(problem, cause == ENOSPC || cause == EDQUOT ? TRY_LATER : FAILED, what, name, strerror(cause));
}

static bool make_all(const char *path)
{
	char part[IMAGE_MAX + 1];

	for (size_t i = 1; path[i]; i++)
		if (path[i] == '/' || !path[i + 1]) {
			size_t length = path[i] == '/' ? i : i + 1;
			memcpy(part, path, length);
			part[length] = '\0';
			if (mkdir(part, 0700) != 0 && errno != EEXIST) {
				int cause = errno;

				/* A directory on the way that is only to be walked through may refuse to be asked. */
				if (access(part, X_OK) != 0) {
					errno = cause;
					return false;
				}
			}
		}
	return true;
}

/* The caller's own, nobody else's, and no link. */
static int open_own(int at, const char *name)
{
	struct stat about;
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd >= 0 && (fstat(fd, &about) != 0 || about.st_uid != geteuid() || (about.st_mode & 077))) {
		close(fd);
		errno = EPERM;
		return -1;
	}
	return fd;
}

static bool lock(int dir)
{
	const struct timespec pause = { .tv_nsec = 20 * 1000 * 1000 };

	for (int waited = 0; flock(dir, LOCK_EX | LOCK_NB) != 0; waited += 20) {
		if (waited >= HANDOVER_MS || (errno != EWOULDBLOCK && errno != EINTR))
			return false;
		nanosleep(&pause, NULL);
	}
	return true;
}

/* 1: it stands there; 0: the layer is new; -1: another image's, or nothing that we wrote. */
static int same_base(int dir, const char *base)
{
	static char text[LAYER_IDENTITY + 1];
	struct stat about;
	ssize_t got = -1;
	int fd = openat(dir, "base", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	if (fd < 0)
		return errno == ENOENT ? 0 : -1;
	if (fstat(fd, &about) == 0 && S_ISREG(about.st_mode))
		got = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (got < 0)
		return -1;
	text[got] = '\0';
	text[strcspn(text, "\n")] = '\0';
	return strcmp(text, base) == 0 ? 1 : -1;
}

static bool write_base(int dir, const char *base, const char *image)
{
	bool done;
	int fd;

	unlinkat(dir, ".base", 0);
	fd = openat(dir, ".base", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return false;
	done = dprintf(fd, "%s\n%s\n", base, image) > 0;
	return close(fd) == 0 && done && renameat(dir, ".base", dir, "base") == 0;
}

static int take(layer *it, const char *name, const char *base, const char *image, char problem[LAYER_PROBLEM])
{
	static const char *const parts[] = { "upper", "work" };
	int same;

	it->dir = open_own(AT_FDCWD, it->path);
	if (it->dir < 0)
		return failed(problem, REFUSED, "the environment", name, "it is not a directory of yours alone");
	if (!lock(it->dir))
		return failed(problem, TRY_LATER, "another step uses the environment", name,
			      "a layer that is written has one step at a time");
	same = same_base(it->dir, base);
	if (same < 0)
		return failed(problem, REFUSED, "the environment", name,
			      "it was made over another image; use another name, or sovctl image env rm");
	for (size_t i = 0; i < 2; i++) {
		int fd;

		if (mkdirat(it->dir, parts[i], 0700) != 0 && errno != EEXIST)
			return of_disk(problem, "cannot make the environment", name);
		fd = openat(it->dir, parts[i], O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			return failed(problem, REFUSED, "the environment", name, "what is in it is no layer");
		close(fd);
	}
	if (same == 0 && !write_base(it->dir, base, image))
		return of_disk(problem, "cannot write to the environment", name);
	return 0;
}

int layer_open(layer *out, const char *directory, const char *name, const char *base, const char *image,
	       char problem[LAYER_PROBLEM])
{
	int status;

	out->dir = -1;
	if (snprintf(out->path, sizeof(out->path), "%s/%s", directory, name) >= (int)sizeof(out->path))
		return failed(problem, FAILED, "the environment", name, "its path is too long");
	if (!make_all(out->path))
		return of_disk(problem, "cannot make the environment", out->path);
	status = take(out, name, base, image, problem);
	if (status)
		layer_close(out);
	return status;
}

void layer_close(layer *it)
{
	if (it->dir >= 0)
		close(it->dir);
	it->dir = -1;
}
