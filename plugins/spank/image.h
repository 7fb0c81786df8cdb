/* A squashfs file as the root directory of a step. Runs in the holder, in its private mount namespace, after what is
 * not the job's has been hidden there. */
#ifndef SOVCTL_IMAGE_H
#define SOVCTL_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "layer.h"
#include "request.h"
#include "settings.h"

struct client;

typedef struct {
	const request *wish;
	int file;	   /* the image, opened and judged already */
	uid_t uid;	   /* whose rights open the sources of mounts */
	gid_t gid;
	const gid_t *groups;
	size_t n_groups;
	const char *home;  /* NULL: not to be seen */
	const char *script; /* the batch script, NULL in other steps */
	const layer *kept;  /* the user's layer over the image; NULL: memory */
	const struct client *client; /* Slurm's commands are wanted inside; NULL: not */
} image_plan;

/* Opens an image with the rights the caller has now. Only a regular file of one of the trusted owners: the kernel will
 * parse it as root. `path`: its real name, which is the one to judge. When it cannot be used: `why`, and the exit status
 * of the task with a minus. It is locked against `sovctl image gc` for as long as somebody has it open. */
int image_open(const settings *site, const char *name, char path[IMAGE_MAX + 1], const char **why);

/* Makes it the root directory of this process. False: `problem` says why and `status` how the task ends. `private_mount(target_fd)` puts a fresh
 * private file system there. */
bool image_enter(const image_plan *plan, const settings *site, bool (*private_mount)(void *with, int target, const char *name),
		 void *with, char *problem, size_t size, int *status);

#endif
