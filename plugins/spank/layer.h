/* A named, persistent layer of a user over an image: `<directory>/<name>/` with `upper`, `work` and `base`, the same
 * that sovctl's own runtime uses and `sovctl image env` lists. Everything in there is the user's to change, so it is
 * opened with the user's rights, over no link, and nothing of it is believed but "is it the same". */
#ifndef SOVCTL_LAYER_H
#define SOVCTL_LAYER_H

#include <stdbool.h>
#include <sys/types.h>

#include "policy.h"

#define LAYER_NAME 64
#define LAYER_PROBLEM 320
#define LAYER_IDENTITY (IMAGE_MAX + 64)

typedef struct {
	int dir; /* of the layer; whoever has it open has the layer. -1: none */
	char path[IMAGE_MAX + 1];
} layer;

/* Letters, digits, dot, dash and underscore, the first no sign. Pure. */
bool layer_is_name(const char *name);

/* What names the bytes of an image: its digest in sovctl's cache, else file, size and time. False: too long. */
bool layer_identity(char out[LAYER_IDENTITY], const char *path, int image);

/* With the rights the caller has now: makes the layer if need be, and has it alone. 0, or the exit status of a task
 * that cannot have it, with `problem`. `base`: identity of the image below. */
int layer_open(layer *out, const char *directory, const char *name, const char *base, const char *image,
	       char problem[LAYER_PROBLEM]);

void layer_close(layer *it);

#endif
