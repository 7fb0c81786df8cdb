#define _GNU_SOURCE
#include "rootfs.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "exit_status.h"

/* struct mount_attr of the kernel; glibc has it from 2.36 on, under the same names as linux/mount.h. */
typedef struct {
	uint64_t set, clear, propagation, userns_fd;
} mount_attributes;
#define READ_ONLY 1
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

bool rootfs_failed(entering *work, const char *what, const char *on)
{
	snprintf(work->problem, work->size, "cannot %s %.150s: %s", what, on, strerror(errno));
	return false;
}

int rootfs_open(int dir, const char *path, uint64_t flags, uint64_t resolve)
{
	struct open_how how = { .flags = flags | O_CLOEXEC, .resolve = resolve | RESOLVE_NO_MAGICLINKS };

	return (int)syscall(SYS_openat2, dir, path, &how, sizeof(how));
}

int rootfs_open_status(int cause)
{
	return cause == ENOENT || cause == ENOTDIR || cause == EACCES || cause == ELOOP ? USAGE : FAILED;
}

static void effective(uint64_t wanted)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { 0 } };

	if (syscall(SYS_capget, &header, data) != 0)
		_exit(1);
	for (int i = 0; i < 2; i++)
		data[i].effective = data[i].permitted & (uint32_t)(wanted >> (32 * i));
	if (syscall(SYS_capset, &header, data) != 0)
		_exit(1);
}

/* What overlayfs does below itself it does with the rights its mounter had: the user's, no chown, no device files, but
 * past the mode 000 of its own work directory. */
void rootfs_as_owner(const image_plan *plan)
{
	setfsgid(plan->gid);
	setfsuid(plan->uid);
	effective((1ULL << CAP_SYS_ADMIN) | (1ULL << CAP_DAC_OVERRIDE) | (1ULL << CAP_FOWNER) | (1ULL << CAP_SETUID) |
		  (1ULL << CAP_SETGID));
}

void rootfs_as_root(void)
{
	setfsuid(0);
	setfsgid(getegid());
	effective(~0ULL);
}

static bool become_user(const image_plan *plan)
{
	return setgroups(plan->n_groups, plan->groups) == 0 && setegid(plan->gid) == 0 && seteuid(plan->uid) == 0;
}

static void become_root(gid_t own)
{
	if (seteuid(0) != 0 || setegid(own) != 0 || setgroups(0, NULL) != 0)
		_exit(1);
}

bool rootfs_add_own(entering *work, int fd)
{
	struct stat about;

	if (work->n_own == ROOTFS_OWN || fstat(fd, &about) != 0)
		return rootfs_failed(work, "look at", "the layers of the image");
	work->own[work->n_own++] = about.st_dev;
	return true;
}

bool rootfs_is_own(const entering *work, int dir)
{
	struct stat about;

	if (fstat(dir, &about) != 0)
		return false;
	for (size_t i = 0; i < work->n_own; i++)
		if (work->own[i] == about.st_dev)
			return true;
	return false;
}

static bool make(int dir, const char *name, bool directory)
{
	return (directory ? mkdirat(dir, name, 0755) : mknodat(dir, name, S_IFREG | 0644, 0)) == 0;
}

/* In the step's own file systems as root, or as their owner. A mount of the host may lie there as well (/dev, a home, an
 * earlier mount of the user's): nothing is made in it but what the user could make. */
static bool make_place(entering *work, int dir, const char *name, bool directory)
{
	gid_t own = getegid();
	bool done;
	int cause;

	if (!rootfs_is_own(work, dir)) {
		done = become_user(work->plan) && make(dir, name, directory);
		cause = errno;
		become_root(own);
		errno = cause;
		return done;
	}
	if (work->owned)
		rootfs_as_owner(work->plan);
	/* A link to nothing, such as /etc/resolv.conf often is, makes way; in memory, not in the image. */
	unlinkat(dir, name, 0);
	done = make(dir, name, directory);
	cause = errno;
	if (work->owned)
		rootfs_as_root();
	errno = cause;
	return done;
}

int rootfs_target(entering *work, const char *path, bool directory)
{
	char part[IMAGE_MAX + 1];
	int at = dup(work->root), cause;

	for (size_t i = 1; at >= 0; i++) {
		bool last = path[i] == '\0';
		const char *name;
		int next;

		if (!last && path[i] != '/')
			continue;
		memcpy(part, path, i);
		part[i] = '\0';
		name = strrchr(part, '/') + 1;
		next = rootfs_open(work->root, part, O_PATH, RESOLVE_IN_ROOT);
		if (next < 0 && errno == ENOENT && make_place(work, at, name, directory || !last))
			next = rootfs_open(work->root, part, O_PATH, RESOLVE_IN_ROOT);
		cause = errno;
		close(at);
		errno = cause;
		at = next;
		if (last)
			break;
	}
	if (at < 0)
		rootfs_failed(work, "make room in the image for", path);
	return at;
}

/* Adds to what holds for the mount already, and takes nothing away. Linux 5.12. */
bool rootfs_write_protect(int fd, unsigned flags)
{
	mount_attributes more = { .set = READ_ONLY };

	return syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH | flags, &more, sizeof(more)) == 0;
}

bool rootfs_bind_fd(entering *work, int source, const char *target, bool read_only)
{
	char from[40], to[40];
	struct stat about;
	int fd;
	bool done;

	if (fstat(source, &about) != 0)
		return rootfs_failed(work, "look at", target);
	fd = rootfs_target(work, target, S_ISDIR(about.st_mode));
	if (fd < 0)
		return false;
	snprintf(from, sizeof(from), "/proc/self/fd/%d", source);
	snprintf(to, sizeof(to), "/proc/self/fd/%d", fd);
	done = mount(from, to, NULL, MS_BIND | MS_REC, NULL) == 0;
	close(fd);
	if (done && read_only) {
		/* The mount point is covered now; its name leads to what covers it. */
		fd = rootfs_open(work->root, target, O_PATH, RESOLVE_IN_ROOT);
		done = fd >= 0 && rootfs_write_protect(fd, AT_RECURSIVE);
		if (fd >= 0)
			close(fd);
	}
	return done || rootfs_failed(work, "show in the image", target);
}

bool rootfs_bind(entering *work, const char *source, const char *target, bool read_only, bool needed)
{
	int fd = open(source, O_PATH | O_CLOEXEC);
	bool done;

	if (fd < 0)
		return !needed || rootfs_failed(work, "open", source);
	done = rootfs_bind_fd(work, fd, target, read_only);
	close(fd);
	return done;
}

int rootfs_open_as_user(entering *work, const char *path)
{
	const image_plan *plan = work->plan;
	gid_t own = getegid();
	int fd = -1, cause;

	if (become_user(plan))
		fd = rootfs_open(AT_FDCWD, path, O_PATH, 0);
	cause = errno;
	become_root(own);
	errno = cause;
	if (fd < 0) {
		work->status = rootfs_open_status(cause);
		rootfs_failed(work, "open as you", path);
	}
	return fd;
}

bool rootfs_bind_for_user(entering *work, const char *source, const char *target, bool read_only)
{
	int fd = rootfs_open_as_user(work, source);
	bool done = fd >= 0 && rootfs_bind_fd(work, fd, target, read_only);

	if (fd >= 0)
		close(fd);
	return done;
}
