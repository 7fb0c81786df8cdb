/* What the user asked for with --sov-... options or their variables. The same code in every context. */
#ifndef SOVCTL_REQUEST_H
#define SOVCTL_REQUEST_H

#include <slurm/spank.h>
#include <stdbool.h>

#define ISOLATE_VARIABLE "SOVCTL_SPANK_ISOLATE"

typedef struct {
	bool isolate;
} request;

/* Registers every option; to be called from slurm_spank_init. */
void request_register(spank_t spank);

/* What the options said so far, and in a step what its environment says too. */
request request_of_step(spank_t spank);

#endif
