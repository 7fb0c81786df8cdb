#define _GNU_SOURCE
#include "devices.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "settings.h"

#define MOST_LISTED 1024 /* numbers that Slurm could list */

/* The number behind `prefix`, if the name is nothing else. */
static bool numbered(const char *name, const char *prefix, unsigned *number)
{
	size_t length = strlen(prefix);
	const char *digits = name + length;

	if (strncmp(name, prefix, length) != 0 || !*digits || digits[strspn(digits, "0123456789")] || strlen(digits) > 6)
		return false;
	*number = (unsigned)atoi(digits);
	return true;
}

typedef bool each_fn(void *with, int dir, const char *name, unsigned number);

/* Of a directory that is not there nothing is called. */
static bool each(int dir, const char *path, const char *prefix, each_fn *call, void *with)
{
	int fd = openat(dir, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *entries = fd < 0 ? NULL : fdopendir(fd);
	bool done = true;

	if (!entries) {
		if (fd >= 0)
			close(fd);
		return errno == ENOENT || errno == ENOTDIR;
	}
	for (struct dirent *entry; done && (entry = readdir(entries));) {
		unsigned number;

		if (numbered(entry->d_name, prefix, &number))
			done = call(with, fd, entry->d_name, number);
	}
	closedir(entries);
	return done;
}

/* --- what is there ---------------------------------------------------------------------------------------------- */

typedef struct {
	devices *out;
	int dir;	  /* of the device files */
	const char *prefix;
	unsigned gpu, gi; /* whose parts are looked for */
} search;

/* access(2) asks the cgroup too, and opens nothing. What is not there was kept away by nobody. */
static bool openable(int dir, const char *name, bool *confined)
{
	bool open = faccessat(dir, name, R_OK, 0) == 0;

	*confined = *confined || (!open && (errno == EPERM || errno == EACCES));
	return open;
}

static bool cap_openable(const search *it, unsigned minor, bool *confined)
{
	char name[SETTINGS_MAX_PATH + 64];

	snprintf(name, sizeof(name), "%s-caps/nvidia-cap%u", it->prefix, minor);
	return openable(it->dir, name, confined);
}

/* Of the file that the driver has for a capability: "DeviceFileMinor: 12" and more lines. */
static bool minor_of(int dir, const char *name, unsigned *minor)
{
	static const char key[] = "DeviceFileMinor:";
	char path[300], text[512];
	const char *at;
	ssize_t got = -1;
	int fd;

	snprintf(path, sizeof(path), "%s/access", name);
	fd = openat(dir, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd >= 0) {
		got = read(fd, text, sizeof(text) - 1);
		close(fd);
	}
	text[got > 0 ? got : 0] = '\0';
	at = strstr(text, key);
	if (!at)
		return false;
	at += strlen(key);
	at += strspn(at, " \t");
	*minor = (unsigned)strtoul(at, NULL, 10);
	return *at >= '0' && *at <= '9';
}

static bool add_gpu(void *with, int dir, const char *name, unsigned number)
{
	devices *out = ((search *)with)->out;

	if (out->n_gpus == DEVICES_GPUS) {
		errno = E2BIG;
		return false;
	}
	device_gpu *gpu = &out->gpus[out->n_gpus++];

	*gpu = (device_gpu){ .number = number };
	gpu->openable = openable(dir, name, &gpu->confined);
	return true;
}

static bool add_ci(void *with, int dir, const char *name, unsigned number)
{
	search *it = with;
	device_mig part = { .gpu = it->gpu, .gi = it->gi };

	(void)number;
	if (!minor_of(dir, name, &part.ci))
		return true;
	if (it->out->n_migs == DEVICES_MIGS) {
		errno = E2BIG;
		return false;
	}
	part.openable = cap_openable(it, part.gi, &part.confined);
	part.openable = cap_openable(it, part.ci, &part.confined) && part.openable;
	it->out->migs[it->out->n_migs++] = part;
	return true;
}

static bool add_gi(void *with, int dir, const char *name, unsigned number)
{
	search *it = with;

	(void)number;
	return !minor_of(dir, name, &it->gi) || each(dir, name, "ci", add_ci, it);
}

static bool add_parts(void *with, int dir, const char *name, unsigned number)
{
	search *it = with;
	char path[300];

	it->gpu = number;
	snprintf(path, sizeof(path), "%s/mig", name);
	return each(dir, path, "gi", add_gi, it);
}

bool devices_find(devices *out, int dir, const char *prefix, const char *capabilities)
{
	search it = { .out = out, .dir = dir, .prefix = prefix };

	out->n_gpus = out->n_migs = 0;
	return each(dir, ".", prefix, add_gpu, &it) && each(AT_FDCWD, capabilities, "gpu", add_parts, &it);
}

/* --- whose it is ------------------------------------------------------------------------------------------------ */

static bool gpu_openable(const devices *all, unsigned number)
{
	for (size_t i = 0; i < all->n_gpus; i++)
		if (all->gpus[i].number == number)
			return all->gpus[i].openable;
	return false;
}

static size_t n_parts(const devices *all, unsigned gpu, bool own)
{
	size_t count = 0;

	for (size_t i = 0; i < all->n_migs; i++)
		count += all->migs[i].gpu == gpu && (!own || all->migs[i].own);
	return count;
}

bool devices_decide(devices *all, const char *listed)
{
	size_t n_listed = 0, n_whole = 0;
	bool confined = false, agree = true;

	for (unsigned number = 0; number < MOST_LISTED; number++)
		if (number_listed(listed, number)) {
			n_listed++;
			agree = agree && gpu_openable(all, number);
		}
	for (size_t i = 0; i < all->n_gpus; i++) {
		all->gpus[i].own = false;
		confined = confined || all->gpus[i].confined;
		n_whole += n_parts(all, all->gpus[i].number, false) == 0;
	}
	for (size_t i = 0; i < all->n_migs; i++) {
		all->migs[i].own = false;
		confined = confined || all->migs[i].confined;
	}
	if (n_listed == 0)
		return true;
	if (all->n_migs && !confined && n_listed < all->n_migs + n_whole)
		return false;
	for (size_t i = 0; i < all->n_migs; i++)
		all->migs[i].own = all->migs[i].openable && gpu_openable(all, all->migs[i].gpu);
	/* What the cgroup lets through may also be a device of which Slurm knows nothing. Without an instance of the job's
	 * on it a GPU that is split is of no use. */
	for (size_t i = 0; i < all->n_gpus; i++) {
		device_gpu *gpu = &all->gpus[i];

		if (all->n_migs)
			gpu->own = gpu->openable && (!n_parts(all, gpu->number, false) || n_parts(all, gpu->number, true));
		else
			gpu->own = gpu->openable && ((confined && !agree) || number_listed(listed, gpu->number));
	}
	return true;
}

/* --- hiding ----------------------------------------------------------------------------------------------------- */

typedef struct {
	const devices *all;
	bool (*hide)(void *with, int file, const char *name);
	void *with;
	dev_t shared; /* the file system of /dev itself */
	bool any;     /* the job has a GPU */
} hiding;

static bool hide_file(const hiding *it, int dir, const char *name)
{
	int fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	bool done;

	if (fd < 0)
		return true;
	done = it->hide(it->with, fd, name);
	close(fd);
	return done;
}

static bool hide_gpu(void *with, int dir, const char *name, unsigned number)
{
	const hiding *it = with;

	for (size_t i = 0; i < it->all->n_gpus; i++)
		if (it->all->gpus[i].number == number && it->all->gpus[i].own)
			return true;
	return hide_file(it, dir, name);
}

/* Also what changes the parts of all GPUs, which is root's. */
static bool hide_cap(void *with, int dir, const char *name, unsigned number)
{
	const hiding *it = with;

	for (size_t i = 0; i < it->all->n_migs; i++)
		if (it->all->migs[i].own && (it->all->migs[i].gi == number || it->all->migs[i].ci == number))
			return true;
	return hide_file(it, dir, name);
}

/* Slurm (switch/nvidia_imex) mounts a directory for the step there, and prologs of sites make channels that only their
 * user may open. Channel 0 is everybody's; whose another is that everybody may open, nobody knows. */
static bool hide_channel(void *with, int dir, const char *name, unsigned number)
{
	const hiding *it = with;
	struct stat place, about;
	bool known = fstat(dir, &place) == 0 && fstatat(dir, name, &about, AT_SYMLINK_NOFOLLOW) == 0 &&
		     (place.st_dev != it->shared || number == 0 || !(about.st_mode & 006));

	return (known && it->any) || hide_file(it, dir, name);
}

bool devices_hide(const devices *all, int dir, const char *prefix, bool (*hide)(void *with, int file, const char *name), void *with)
{
	hiding it = { .all = all, .hide = hide, .with = with };
	char caps[SETTINGS_MAX_PATH + 64], channels[SETTINGS_MAX_PATH + 64];
	struct stat about;

	if (fstat(dir, &about) != 0)
		return false;
	it.shared = about.st_dev;
	for (size_t i = 0; i < all->n_gpus; i++)
		it.any = it.any || all->gpus[i].own;
	snprintf(caps, sizeof(caps), "%s-caps", prefix);
	snprintf(channels, sizeof(channels), "%s-caps-imex-channels", prefix);
	return each(dir, ".", prefix, hide_gpu, &it) && each(dir, caps, "nvidia-cap", hide_cap, &it) &&
	       each(dir, channels, "channel", hide_channel, &it);
}
