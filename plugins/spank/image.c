#define _GNU_SOURCE
#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "client.h"
#include "exit_status.h"
#include "rootfs.h"

#define BASE "/tmp/.sovctl" /* /tmp is private by now; holds the layers until the old root is let go */

/* Of linux/mount.h, which older headers lack. */
typedef struct {
	uint64_t set, clear, propagation, userns_fd;
} mount_attributes;
#define ID_MAPPED 0x00100000
#define A_COPY 1	/* OPEN_TREE_CLONE */
#define FROM_NO_NAME 4 /* MOVE_MOUNT_F_EMPTY_PATH */

static bool trusted_owner(const settings *site, uid_t owner)
{
	return strcmp(site->image_owners, "any") == 0 || number_listed(site->image_owners, owner);
}

/* The super options of the line of mountinfo behind " - ", file system and source; blanks in names are escaped there. */
static const char *super_options(const char *line, const char *device, bool *fuse)
{
	const char *at = strstr(line, " - ");
	char found[32];

	if (sscanf(line, "%*u %*u %31s", found) != 1 || strcmp(found, device) != 0 || !at)
		return NULL;
	at += 3;
	*fuse = strncmp(at, "fuse", 4) == 0;
	at += strcspn(at, " ");
	at += strspn(at, " ");
	return at + strcspn(at, " ");
}

/* Whether a program of a user serves the file system: it could say of its files that they are root's, and change them
 * while the kernel reads them. Not so where root mounted it, and of what no line tells it is believed. */
static bool served_by_user(int fd, const struct stat *about)
{
	char device[32], *line = NULL;
	struct statfs system;
	bool served = true;
	size_t room = 0;
	FILE *mounts;

	if (fstatfs(fd, &system) == 0 && system.f_type != FUSE_SUPER_MAGIC)
		return false;
	snprintf(device, sizeof(device), "%u:%u", major(about->st_dev), minor(about->st_dev));
	mounts = fopen("/proc/self/mountinfo", "re");
	while (mounts && served && getline(&line, &room, mounts) > 0) {
		bool fuse = true;
		const char *options = super_options(line, device, &fuse);
		const char *user = options ? strstr(options, ",user_id=") : NULL;

		if (options)
			served = user ? strncmp(user, ",user_id=0,", 11) != 0 : fuse; /* virtiofs tells no user */
	}
	free(line);
	if (mounts)
		fclose(mounts);
	return served;
}

int image_open(const settings *site, const char *name, char path[IMAGE_MAX + 1], const char **why)
{
	char link[40];
	struct stat about;
	ssize_t length;
	int fd = rootfs_open(AT_FDCWD, name, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
	int status = USAGE;

	*why = strerror(errno);
	if (fd < 0)
		return -rootfs_open_status(errno);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, IMAGE_MAX);
	*why = NULL;
	if (length <= 0 || length == IMAGE_MAX)
		*why = "its real name is too long";
	else if (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode))
		*why = "it is no regular file";
	else
		status = REFUSED;
	if (!*why && !trusted_owner(site, about.st_uid))
		*why = "it does not belong to an owner this site trusts with images (image_owners in plugstack.conf)";
	else if (!*why && about.st_mode & 022 && strcmp(site->image_owners, "any") != 0)
		*why = "others than its owner can write it";
	else if (!*why && strcmp(site->image_owners, "any") != 0 && served_by_user(fd, &about))
		*why = "a user's program (FUSE) tells whose it is; copy it to a file system of the site";
	path[length > 0 ? length : 0] = '\0';
	if (*why) {
		close(fd);
		return -status;
	}
	/* Not waited for: anybody who can read the file could keep its lock. gc has one only while it removes. */
	(void)!flock(fd, LOCK_SH | LOCK_NB);
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
		rootfs_failed(work, "attach", work->plan->wish->image);
	if (control >= 0)
		close(control);
	return loop;
}

/* A user namespace in which 0 is the user, for the kernel to translate owners by; nothing runs in it. -1: refused, by
 * what errno says. */
static int map_of_owner(const image_plan *plan)
{
	static const char *const files[] = { "uid_map", "gid_map" };
	const unsigned ids[] = { plan->uid, plan->gid };
	int made[2] = { -1, -1 }, ns = -1;
	char path[64];
	unsigned char cause = EAGAIN;
	pid_t pid;

	if (pipe2(made, O_CLOEXEC) != 0)
		return -1;
	pid = fork();
	if (pid == 0) {
		cause = unshare(CLONE_NEWUSER) == 0 ? 0 : (unsigned char)errno;
		if (write(made[1], &cause, 1) == 1 && !cause)
			pause();
		_exit(0);
	}
	close(made[1]);
	if (pid > 0 && read(made[0], &cause, 1) == 1 && !cause) {
		bool done = true;

		for (int i = 0; done && i < 2; i++) {
			int fd;

			snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, files[i]);
			fd = open(path, O_WRONLY | O_CLOEXEC);
			done = fd >= 0 && dprintf(fd, "0 %u 1", ids[i]) > 0;
			if (fd >= 0)
				close(fd);
		}
		snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
		if (done)
			ns = open(path, O_RDONLY | O_CLOEXEC);
		cause = (unsigned char)errno;
	}
	close(made[0]);
	if (pid > 0)
		kill(pid, SIGKILL);
	errno = cause;
	return ns;
}

/* Has root's files of the image be the user's own, so that all of it can be written. Linux 6.2 for squashfs. */
static bool give_to_owner(int ns)
{
	int tree = (int)syscall(SYS_open_tree, AT_FDCWD, BASE "/image", A_COPY | O_CLOEXEC);
	mount_attributes wanted = { .set = ID_MAPPED, .userns_fd = (uint64_t)ns };
	bool done = tree >= 0 && syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &wanted, sizeof(wanted)) == 0 &&
		    syscall(SYS_move_mount, tree, "", AT_FDCWD, BASE "/owned", FROM_NO_NAME) == 0;

	if (tree >= 0)
		close(tree);
	return done;
}

/* The parts of the user's layer; the directory has been judged and locked before the mounts became private. */
static bool open_layer(entering *work, int parts[2])
{
	static const char *const names[] = { "upper", "work" };
	struct stat locked, now, about;
	int dir = rootfs_open_as_user(work, work->plan->kept->path);
	bool done;

	if (dir < 0)
		return false;
	done = fstat(work->plan->kept->dir, &locked) == 0 && fstat(dir, &now) == 0 && locked.st_dev == now.st_dev &&
	       locked.st_ino == now.st_ino;
	if (!done)
		errno = ESTALE;
	for (int i = 0; done && i < 2; i++) {
		parts[i] = rootfs_open(dir, names[i], O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV | RESOLVE_BENEATH);
		done = parts[i] >= 0 && fstat(parts[i], &about) == 0;
		if (done && about.st_uid != work->plan->uid) {
			errno = EPERM;
			done = false;
		}
	}
	close(dir);
	return done || rootfs_failed(work, "open the layer", work->plan->kept->path);
}

static bool mount_layer(entering *work)
{
	int parts[2] = { -1, -1 };
	char options[160];
	bool done = open_layer(work, parts);

	if (done) {
		/* userxattr: marks that its owner can set too, so nothing in them is believed (no redirects). */
		snprintf(options, sizeof(options), "lowerdir=" BASE "/owned,upperdir=/proc/self/fd/%d,workdir=/proc/self/fd/%d,userxattr",
			 parts[0], parts[1]);
		rootfs_as_owner(work->plan);
		done = mount("overlay", BASE "/root", "overlay", MS_NOSUID | MS_NODEV, options) == 0 ||
		       rootfs_failed(work, "write with overlayfs to the layer (ext4 and xfs can, NFS cannot)", work->plan->kept->path);
		rootfs_as_root();
	}
	for (int i = 0; i < 2; i++)
		if (parts[i] >= 0)
			close(parts[i]);
	return done;
}

/* The upper layer, in memory, takes the mount points that the image lacks, and what is written. */
static bool mount_memory(entering *work)
{
	const char *options = work->owned ? "lowerdir=" BASE "/owned,upperdir=" BASE "/upper,workdir=" BASE "/work" :
					    "lowerdir=" BASE "/image,upperdir=" BASE "/upper,workdir=" BASE "/work";
	bool done;

	if (work->owned && (chown(BASE "/upper", work->plan->uid, work->plan->gid) != 0 ||
			    chown(BASE "/work", work->plan->uid, work->plan->gid) != 0))
		return rootfs_failed(work, "make", "the layers of the image");
	if (work->owned)
		rootfs_as_owner(work->plan);
	done = mount("overlay", BASE "/root", "overlay", MS_NOSUID | MS_NODEV, options) == 0 ||
	       rootfs_failed(work, "lay memory over", work->plan->wish->image);
	if (work->owned)
		rootfs_as_root();
	return done;
}

static bool layered(entering *work)
{
	const image_plan *plan = work->plan;

	if (plan->uid != 0 && (plan->kept || plan->wish->writable)) {
		int ns = map_of_owner(plan);

		if (ns < 0 && plan->kept)
			return rootfs_failed(work, "make the user namespace that a layer needs, over", plan->wish->image);
		work->owned = ns >= 0 && give_to_owner(ns);
		if (ns >= 0)
			close(ns);
		if (!work->owned && plan->kept)
			return rootfs_failed(work, "show the image as your own (Linux 6.2 can; --runtime bubblewrap needs it not):",
					     plan->wish->image);
	} else if (plan->kept && mount(BASE "/image", BASE "/owned", NULL, MS_BIND, NULL) != 0) {
		return rootfs_failed(work, "show", plan->wish->image);
	}
	return plan->kept ? mount_layer(work) : mount_memory(work);
}

static bool mount_image(entering *work)
{
	static const char *const places[] = { BASE, BASE "/image", BASE "/owned", BASE "/upper", BASE "/work", BASE "/root" };
	char device[32] = "";
	int loop;
	bool done;

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
		if (mkdir(places[i], 0755) != 0)
			return rootfs_failed(work, "make", "the layers of the image");
	loop = attach(work, device);
	if (loop < 0)
		return false;
	done = mount(device, BASE "/image", "squashfs", MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) == 0;
	if (!done)
		rootfs_failed(work, "mount (is it a whole squashfs file?)", work->plan->wish->image);
	close(loop);
	if (!done || !layered(work))
		return false;
	work->root = open(BASE "/root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return work->root >= 0 ? rootfs_add_own(work, work->root) : rootfs_failed(work, "open", "the image");
}

static bool fill(entering *work, const settings *site)
{
	static const char *const always[] = { "/proc", "/sys", "/dev" };
	static const char *const names[] = { "/etc/passwd", "/etc/group", "/etc/hosts", "/etc/resolv.conf" };
	const image_plan *plan = work->plan;
	bool done = true;

	for (size_t i = 0; done && i < sizeof(always) / sizeof(always[0]); i++)
		done = rootfs_bind(work, always[i], always[i], false, true);
	for (size_t i = 0; done && i < sizeof(names) / sizeof(names[0]); i++)
		done = rootfs_bind(work, names[i], names[i], false, false);
	if (done && plan->script)
		done = rootfs_bind(work, plan->script, plan->script, false, true);
	if (done && plan->client)
		done = client_show(work, plan->client);
	if (done && plan->home)
		done = rootfs_bind_for_user(work, plan->home, plan->home, false);
	for (size_t i = 0; done && i < plan->wish->n_mounts; i++)
		done = rootfs_bind_for_user(work, plan->wish->mounts[i].source, plan->wish->mounts[i].target,
					    plan->wish->mounts[i].read_only);
	for (size_t i = 0; done && i < site->n_keep; i++)
		done = rootfs_bind(work, site->keep[i], site->keep[i], false, false);
	return done;
}

static bool make_private(entering *work, const char *place, bool (*private_mount)(void *with, int target, const char *name),
			 void *with)
{
	int target = rootfs_target(work, place, true);
	bool done = target >= 0 && private_mount(with, target, place);

	if (target >= 0)
		close(target);
	if (!done)
		return false;
	/* The mount point is covered now; its name leads to what covers it. */
	target = rootfs_open(work->root, place, O_PATH, RESOLVE_IN_ROOT);
	done = target >= 0 ? rootfs_add_own(work, target) : rootfs_failed(work, "open", place);
	if (target >= 0)
		close(target);
	return done;
}

static bool enter(entering *work, const settings *site, bool (*private_mount)(void *with, int target, const char *name),
		  void *with)
{
	const image_plan *plan = work->plan;

	if (!mount_image(work))
		return false;
	if (!make_private(work, "/tmp", private_mount, with) || !make_private(work, "/var/tmp", private_mount, with))
		return false;
	if (plan->client && !make_private(work, CLIENT_PLACE, private_mount, with))
		return false;
	if (!fill(work, site))
		return false;
	if (!plan->wish->writable && !plan->kept && !rootfs_write_protect(work->root, 0))
		return rootfs_failed(work, "write-protect", "the image");
	if (fchdir(work->root) != 0 || syscall(SYS_pivot_root, ".", ".") != 0 || umount2(".", MNT_DETACH) != 0 ||
	    chdir("/") != 0)
		return rootfs_failed(work, "make the root directory of", plan->wish->image);
	close(work->root);
	return true;
}

bool image_enter(const image_plan *plan, const settings *site, bool (*private_mount)(void *with, int target, const char *name),
		 void *with, char *problem, size_t size, int *status)
{
	entering work = { .plan = plan, .problem = problem, .size = size, .status = FAILED, .root = -1 };
	bool done = enter(&work, site, private_mount, with);

	*status = work.status;
	return done;
}
