#define _GNU_SOURCE
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HOST CLIENT_PLACE "/host"

static const char *const commands[] = { "srun",	  "sbatch", "salloc", "squeue",	  "scontrol", "scancel",  "sinfo",    "sacct",
					"sstat",  "sprio",  "sshare", "sacctmgr", "sattach",  "sbcast",	  "sreport",  "sdiag",
					"strigger", "scrontab" };
/* Sockets of munge and sackd, slurm.conf, and where a node without one keeps what it was sent. */
static const char *const places[] = { "/run/munge", "/var/run/munge", "/run/slurm", "/run/slurmctld", "/etc/slurm" };

/* The real directory of a file; false when there is none or it does not fit. */
static bool directory_of(char out[SETTINGS_MAX_PATH], const char *file)
{
	char real[PATH_MAX];

	if (!realpath(file, real) || !strrchr(real, '/'))
		return false;
	*strrchr(real, '/') = '\0';
	if (!*real || strlen(real) >= SETTINGS_MAX_PATH)
		return false;
	strcpy(out, real);
	return true;
}

static void add_library(client *out, const char *file)
{
	char found[SETTINGS_MAX_PATH];

	if (out->n_libraries == CLIENT_DIRECTORIES || !directory_of(found, file))
		return;
	for (size_t i = 0; i < out->n_libraries; i++)
		if (strcmp(out->libraries[i], found) == 0)
			return;
	strcpy(out->libraries[out->n_libraries++], found);
}

/* Called once for each object that is loaded; the first is the program itself, which names its loader. */
static int look(struct dl_phdr_info *object, size_t size, void *into)
{
	client *out = into;
	const char *name = object->dlpi_name && *object->dlpi_name ? object->dlpi_name : "";
	char real[PATH_MAX];

	(void)size;
	for (int i = 0; !*out->loader && i < object->dlpi_phnum; i++)
		if (object->dlpi_phdr[i].p_type == PT_INTERP &&
		    realpath((const char *)(object->dlpi_addr + object->dlpi_phdr[i].p_vaddr), real) &&
		    strlen(real) < sizeof(out->loader)) {
			strcpy(out->loader, real);
			add_library(out, real);
		}
	if (*name == '/') {
		const char *last = strrchr(name, '/') + 1;

		add_library(out, name);
		if (strncmp(last, "libslurm", 8) == 0)
			directory_of(out->plugins, name);
	}
	return 0;
}

bool client_find(client *out)
{
	memset(out, 0, sizeof(*out));
	dl_iterate_phdr(look, out);
	/* /usr/sbin/slurmstepd: its prefix is /usr. */
	if (!directory_of(out->prefix, "/proc/self/exe") || !strrchr(out->prefix, '/'))
		return false;
	*strrchr(out->prefix, '/') = '\0';
	if (!*out->prefix)
		strcpy(out->prefix, "/usr");
	return *out->loader && out->n_libraries > 0;
}

static bool below(const char *path, const char *directory)
{
	size_t length = strlen(directory);

	return strncmp(path, directory, length) == 0 && (path[length] == '/' || !path[length]);
}

/* A directory of the host below HOST, unless one that is shown already holds it. */
static bool show_directory(entering *work, const client *what, const char *path)
{
	char target[SETTINGS_MAX_PATH + sizeof(HOST)];

	if (path != what->prefix && below(path, what->prefix))
		return true;
	snprintf(target, sizeof(target), HOST "%s", path);
	return rootfs_bind(work, path, target, true, true);
}

static bool write_starter(entering *work, const client *what)
{
	int place = rootfs_open(work->root, CLIENT_PLACE, O_RDONLY | O_DIRECTORY, RESOLVE_IN_ROOT);
	/* A link in the image may lead to where the host's /dev has been shown since. */
	bool own = place >= 0 && rootfs_is_own(work, place);
	int file = own ? openat(place, "client", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0755) : -1;
	int bin = -1;
	bool done = file >= 0 && fchmod(file, 0755) == 0 && mkdirat(place, "bin", 0755) == 0;

	if (place >= 0 && !own)
		errno = EXDEV;

	if (done) {
		dprintf(file, "#!/bin/sh\n# The host's Slurm, with the host's libraries.\nexec " HOST "%s --inhibit-cache --library-path ",
			what->loader);
		for (size_t i = 0; i < what->n_libraries; i++)
			dprintf(file, "%s" HOST "%s", i ? ":" : "", what->libraries[i]);
		done = dprintf(file, " " HOST "%s/bin/\"${0##*/}\" \"$@\"\n", what->prefix) > 0;
		bin = openat(place, "bin", O_PATH | O_DIRECTORY | O_CLOEXEC);
	}
	for (size_t i = 0; done && i < sizeof(commands) / sizeof(commands[0]); i++) {
		char program[SETTINGS_MAX_PATH + 32];

		snprintf(program, sizeof(program), "%s/bin/%s", what->prefix, commands[i]);
		done = access(program, X_OK) != 0 || symlinkat("../client", bin, commands[i]) == 0;
	}
	if (file >= 0)
		close(file);
	if (bin >= 0)
		close(bin);
	if (place >= 0)
		close(place);
	return done || rootfs_failed(work, "write", CLIENT_PATH);
}

bool client_show(entering *work, const client *what)
{
	int shell = rootfs_open(work->root, "/bin/sh", O_PATH, RESOLVE_IN_ROOT);
	bool done;

	if (shell < 0)
		return rootfs_failed(work, "start Slurm's commands, which need the image's /bin/sh, in", work->plan->wish->image);
	close(shell);
	done = write_starter(work, what) && show_directory(work, what, what->prefix);
	for (size_t i = 0; done && i < what->n_libraries; i++)
		done = show_directory(work, what, what->libraries[i]);
	if (done && *what->plugins)
		done = rootfs_bind(work, what->plugins, what->plugins, true, true);
	for (size_t i = 0; done && i < sizeof(places) / sizeof(places[0]); i++)
		done = rootfs_bind(work, places[i], places[i], true, false);
	if (done && *what->conf)
		done = rootfs_bind_for_user(work, what->conf, what->conf, true);
	return done;
}
