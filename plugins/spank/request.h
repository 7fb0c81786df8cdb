/* What the user asked for with --sov-... options or their variables. The same code in every context. */
#ifndef SOVCTL_REQUEST_H
#define SOVCTL_REQUEST_H

#include <slurm/spank.h>
#include <stdbool.h>
#include <stddef.h>

#include "layer.h"
#include "policy.h"

#define REQUEST_MAX_MOUNTS 16
#define REQUEST_TEXT 8192

typedef struct {
	const char *source, *target;
	bool read_only;
} request_mount;

typedef struct {
	bool isolate, clean_env, writable, home, private_network, slurm_client;
	char image[IMAGE_MAX + 1]; /* empty: the host's own root */
	char env_name[LAYER_NAME + 1]; /* empty: no layer is kept */
	char mounts_text[REQUEST_TEXT + 1]; /* as it was given, for the steps of a batch script */
	char mounts_cut[REQUEST_TEXT + 1];
	request_mount mounts[REQUEST_MAX_MOUNTS];
	size_t n_mounts;
	const char *problem; /* NULL, or which value cannot be used */
} request;

/* Registers every option; to be called from slurm_spank_init. */
void request_register(spank_t spank);

/* What the options said, and in a step what its environment says where the options say nothing. */
const request *request_of_step(spank_t spank);

/* Leaves word for the steps that are started from this one, in the environment of the task. */
void request_hand_on(spank_t spank, const request *asked);

/* Whether this may be covered by a mount: a full plain path, not in /proc, /sys or /dev. */
bool request_is_target(const char *path);

/* Takes one value; NULL or what is wrong with it. Pure. */
const char *request_take_image(request *into, const char *text);
const char *request_take_mounts(request *into, const char *text);
const char *request_take_home(request *into, const char *text);
const char *request_take_env_name(request *into, const char *text);

#endif
