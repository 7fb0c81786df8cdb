#define _GNU_SOURCE
#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/loop.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BASE "/tmp/.sovctl" /* /tmp is private by now; holds the layers until the old root is let go */

/* struct mount_attr of the kernel; glibc has it from 2.36 on, under the same names as linux/mount.h. */
typedef struct {
	uint64_t set, clear, propagation, userns_fd;
} mount_attributes;
#define READ_ONLY 1
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

typedef struct {
	const image_plan *plan;
	char *problem;
	size_t size;
	int root;
} entering;

static bool failed(entering *work, const char *what, const char *on)
{
	snprintf(work->problem, work->size, "cannot %s %.150s: %s", what, on, strerror(errno));
	return false;
}

static int open_in(int dir, const char *path, uint64_t flags, uint64_t resolve)
{
	struct open_how how = { .flags = flags | O_CLOEXEC, .resolve = resolve | RESOLVE_NO_MAGICLINKS };

	return (int)syscall(SYS_openat2, dir, path, &how, sizeof(how));
}

static bool trusted_owner(const settings *site, uid_t owner)
{
	return strcmp(site->image_owners, "any") == 0 || number_listed(site->image_owners, owner);
}

int image_open(const settings *site, const char *name, char path[IMAGE_MAX + 1], const char **why)
{
	char link[40];
	struct stat about;
	ssize_t length;
	int fd = open_in(AT_FDCWD, name, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);

	*why = strerror(errno);
	if (fd < 0)
		return -1;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, IMAGE_MAX);
	*why = NULL;
	if (length <= 0 || length == IMAGE_MAX)
		*why = "its real name is too long";
	else if (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode))
		*why = "it is no regular file";
	else if (!trusted_owner(site, about.st_uid))
		*why = "it does not belong to an owner this site trusts with images (image_owners in plugstack.conf)";
	else if (about.st_mode & 022 && strcmp(site->image_owners, "any") != 0)
		*why = "others than its owner can write it";
	path[length > 0 ? length : 0] = '\0';
	if (*why) {
		close(fd);
		return -1;
	}
	return fd;
}

/* A read-only loop device that goes away by itself when its last mount does. */
static int attach(entering *work, char device[32])
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	int loop = -1;

	for (int tries = 0; control >= 0 && loop < 0 && tries < 50; tries++) {
		struct loop_config config = { .fd = (uint32_t)work->plan->file,
					      .info = { .lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR } };
		int number = ioctl(control, LOOP_CTL_GET_FREE);

		if (number < 0)
			break;
		snprintf(device, 32, "/dev/loop%d", number);
		loop = open(device, O_RDONLY | O_CLOEXEC);
		if (loop >= 0 && ioctl(loop, LOOP_CONFIGURE, &config) != 0) {
			int cause = errno;
			close(loop);
			loop = -1;
			errno = cause;
			if (cause != EBUSY) /* somebody else took this one */
				break;
		}
	}
	if (loop < 0)
		failed(work, "attach", work->plan->wish->image);
	if (control >= 0)
		close(control);
	return loop;
}

static bool mount_image(entering *work)
{
	char device[32] = "";
	int loop;
	bool done;

	if (mkdir(BASE, 0755) || mkdir(BASE "/image", 0755) || mkdir(BASE "/upper", 0755) || mkdir(BASE "/work", 0755) || mkdir(BASE "/root", 0755))
		return failed(work, "make", "the layers of the image");
	loop = attach(work, device);
	if (loop < 0)
		return false;
	done = mount(device, BASE "/image", "squashfs", MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) == 0;
	if (!done)
		failed(work, "mount (is it a whole squashfs file?)", work->plan->wish->image);
	close(loop);
	/* The upper layer, in memory, takes the mount points that the image lacks. */
	if (done && mount("overlay", BASE "/root", "overlay", MS_NOSUID | MS_NODEV,
			  "lowerdir=" BASE "/image,upperdir=" BASE "/upper,workdir=" BASE "/work") != 0)
		done = failed(work, "lay memory over", work->plan->wish->image);
	if (!done)
		return false;
	work->root = open(BASE "/root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return work->root >= 0 || failed(work, "open", "the image");
}

/* The place for a mount in the image, made if need be. Links in the image lead nowhere but into the image. */
static int target_in(entering *work, const char *path, bool directory)
{
	char part[IMAGE_MAX + 1];
	int at = dup(work->root);

	for (size_t i = 1; at >= 0; i++) {
		bool last = path[i] == '\0';
		const char *name;
		int next;

		if (!last && path[i] != '/')
			continue;
		memcpy(part, path, i);
		part[i] = '\0';
		name = strrchr(part, '/') + 1;
		next = open_in(work->root, part, O_PATH, RESOLVE_IN_ROOT);
		if (next < 0 && errno == ENOENT) {
			/* A link to nothing, such as /etc/resolv.conf often is, makes way; in memory, not in the image. */
			unlinkat(at, name, 0);
			if (last && !directory)
				(void)!mknodat(at, name, S_IFREG | 0644, 0);
			else
				(void)!mkdirat(at, name, 0755);
			next = open_in(work->root, part, O_PATH, RESOLVE_IN_ROOT);
		}
		close(at);
		at = next;
		if (last)
			break;
	}
	if (at < 0)
		failed(work, "make room in the image for", path);
	return at;
}

/* Adds to what holds for the mount already, and takes nothing away. Linux 5.12. */
static bool write_protect(int fd, unsigned flags)
{
	mount_attributes more = { .set = READ_ONLY };

	return syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH | flags, &more, sizeof(more)) == 0;
}

static bool bind_fd(entering *work, int source, const char *target, bool read_only)
{
	char from[40], to[40];
	struct stat about;
	int fd;
	bool done;

	if (fstat(source, &about) != 0)
		return failed(work, "look at", target);
	fd = target_in(work, target, S_ISDIR(about.st_mode));
	if (fd < 0)
		return false;
	snprintf(from, sizeof(from), "/proc/self/fd/%d", source);
	snprintf(to, sizeof(to), "/proc/self/fd/%d", fd);
	done = mount(from, to, NULL, MS_BIND | MS_REC, NULL) == 0;
	close(fd);
	if (done && read_only) {
		/* The mount point is covered now; its name leads to what covers it. */
		fd = open_in(work->root, target, O_PATH, RESOLVE_IN_ROOT);
		done = fd >= 0 && write_protect(fd, AT_RECURSIVE);
		if (fd >= 0)
			close(fd);
	}
	return done || failed(work, "show in the image", target);
}

static bool bind_path(entering *work, const char *path, bool needed)
{
	int fd = open(path, O_PATH | O_CLOEXEC);
	bool done;

	if (fd < 0)
		return !needed || failed(work, "open", path);
	done = bind_fd(work, fd, path, false);
	close(fd);
	return done;
}

/* With the user's rights: nothing is shown to a user that this user could not walk to. */
static int open_as_user(entering *work, const char *path)
{
	const image_plan *plan = work->plan;
	gid_t own = getegid();
	int fd = -1, cause;

	if (setgroups(plan->n_groups, plan->groups) == 0 && setegid(plan->gid) == 0 && seteuid(plan->uid) == 0)
		fd = open_in(AT_FDCWD, path, O_PATH, 0);
	cause = errno;
	if (seteuid(0) != 0 || setegid(own) != 0 || setgroups(0, NULL) != 0)
		_exit(1);
	errno = cause;
	if (fd < 0)
		failed(work, "open as you", path);
	return fd;
}

static bool bind_for_user(entering *work, const char *source, const char *target, bool read_only)
{
	int fd = open_as_user(work, source);
	bool done = fd >= 0 && bind_fd(work, fd, target, read_only);

	if (fd >= 0)
		close(fd);
	return done;
}

static bool fill(entering *work, const settings *site)
{
	static const char *const always[] = { "/proc", "/sys", "/dev" };
	static const char *const names[] = { "/etc/passwd", "/etc/group", "/etc/hosts", "/etc/resolv.conf" };
	const image_plan *plan = work->plan;
	bool done = true;

	for (size_t i = 0; done && i < sizeof(always) / sizeof(always[0]); i++)
		done = bind_path(work, always[i], true);
	for (size_t i = 0; done && i < sizeof(names) / sizeof(names[0]); i++)
		done = bind_path(work, names[i], false);
	if (done && plan->script)
		done = bind_path(work, plan->script, true);
	if (done && plan->home)
		done = bind_for_user(work, plan->home, plan->home, false);
	for (size_t i = 0; done && i < plan->wish->n_mounts; i++)
		done = bind_for_user(work, plan->wish->mounts[i].source, plan->wish->mounts[i].target,
				     plan->wish->mounts[i].read_only);
	for (size_t i = 0; done && i < site->n_keep; i++)
		done = bind_path(work, site->keep[i], false);
	return done;
}

bool image_enter(const image_plan *plan, const settings *site, bool (*private_mount)(void *with, int target, const char *name),
		 void *with, char *problem, size_t size)
{
	static const char *const fresh[] = { "/tmp", "/var/tmp" };
	entering work = { .plan = plan, .problem = problem, .size = size, .root = -1 };

	if (!mount_image(&work))
		return false;
	for (size_t i = 0; i < sizeof(fresh) / sizeof(fresh[0]); i++) {
		int target = target_in(&work, fresh[i], true);
		bool done = target >= 0 && private_mount(with, target, fresh[i]);

		if (target >= 0)
			close(target);
		if (!done)
			return false;
	}
	if (!fill(&work, site))
		return false;
	if (!plan->wish->writable && !write_protect(work.root, 0))
		return failed(&work, "write-protect", "the image");
	if (fchdir(work.root) != 0 || syscall(SYS_pivot_root, ".", ".") != 0 || umount2(".", MNT_DETACH) != 0 ||
	    chdir("/") != 0)
		return failed(&work, "make the root directory of", plan->wish->image);
	close(work.root);
	return true;
}
