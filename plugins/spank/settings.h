/* What the administrator wrote behind the plugin in plugstack.conf, and what a user asked for. Pure. */
#ifndef SOVCTL_SETTINGS_H
#define SOVCTL_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>

#define SETTINGS_MAX_PATHS 16
#define SETTINGS_MAX_PATH 1024

typedef struct {
	char policy[SETTINGS_MAX_PATH];
	char state[SETTINGS_MAX_PATH];
	char gpus[SETTINGS_MAX_PATH]; /* device files are this and a number */
	char capabilities[SETTINGS_MAX_PATH]; /* where the driver tells how GPUs are split */
	char image_owners[64]; /* numbers of users whose image files root mounts; "any" */
	char env_dir[SETTINGS_MAX_PATH]; /* of named layers, "%u" in it is the user; empty: below the user's home */
	char tmp_size[16];	      /* of each private file system, as tmpfs takes it */
	char allow_env[SETTINGS_MAX_PATH]; /* patterns of variables that a clean environment keeps too */
	char keep[SETTINGS_MAX_PATHS][SETTINGS_MAX_PATH];
	size_t n_keep;
	char problem[SETTINGS_MAX_PATH + 64];
} settings;

/* Never fails: what cannot be understood is left out and told in `problem`. `node`: stands for %n in a path. */
void settings_parse(settings *out, int argc, char *const argv[], const char *node);

/* Directory of a user's named layers: the site's, else as the user's variables have it. False: there is none. */
bool settings_env_dir(const settings *site, char out[SETTINGS_MAX_PATH], const char *user, const char *data_home,
		      const char *home);

/* Whether `number` is in a list as Slurm writes it: "0,2-5". NULL and "" hold nothing. */
bool number_listed(const char *list, unsigned number);

/* A value for a record: a name or a list of names; at most `size` with its end. */
bool plain_value(const char *text, size_t size);

#endif
