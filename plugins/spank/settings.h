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
	char image_owners[64]; /* numbers of users whose image files root mounts; "any" */
	char tmp_size[16];	      /* of each private file system, as tmpfs takes it */
	char keep[SETTINGS_MAX_PATHS][SETTINGS_MAX_PATH];
	size_t n_keep;
	char problem[SETTINGS_MAX_PATH + 64];
} settings;

/* Never fails: what cannot be understood is left out and told in `problem`. `node`: stands for %n in a path. */
void settings_parse(settings *out, int argc, char *const argv[], const char *node);

/* Whether `number` is in a list as Slurm writes it: "0,2-5". NULL and "" hold nothing. */
bool number_listed(const char *list, unsigned number);

/* A value for a record: a name or a list of names; at most `size` with its end. */
bool plain_value(const char *text, size_t size);

#endif
