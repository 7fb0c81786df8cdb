/* Slurm's commands in an image, whatever the image is: the host's programs, run by the host's own loader with the host's
 * own libraries, and what they talk to (munge's socket, slurm.conf). */
#ifndef SOVCTL_CLIENT_H
#define SOVCTL_CLIENT_H

#include <stdbool.h>
#include <stddef.h>

#include "rootfs.h"
#include "settings.h"

#define CLIENT_PLACE "/run/sovctl/slurm"
#define CLIENT_PATH CLIENT_PLACE "/bin"
#define CLIENT_DIRECTORIES 8

typedef struct client {
	char loader[SETTINGS_MAX_PATH];
	char prefix[SETTINGS_MAX_PATH];	 /* of Slurm: its commands are in bin below it */
	char plugins[SETTINGS_MAX_PATH]; /* where they look for them, inside too */
	char libraries[CLIENT_DIRECTORIES][SETTINGS_MAX_PATH];
	size_t n_libraries;
	char conf[SETTINGS_MAX_PATH]; /* directory of slurm.conf by the user's word; opened with the user's rights */
} client;

/* Where Slurm is, by what this process (slurmstepd) is made of. False: that cannot be told. */
bool client_find(client *out);

/* In the holder: makes CLIENT_PLACE, where a private file system is by now, hold all of it. */
bool client_show(entering *work, const client *what);

#endif
