/* What root learns about a job from its prolog, kept for the job's steps: no step is asked where it runs, because
 * its environment is the user's. */
#ifndef SOVCTL_RECORD_H
#define SOVCTL_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#define RECORD_VALUE 512

typedef struct {
	bool known;
	char partition[RECORD_VALUE];
	char account[RECORD_VALUE];
	char gpus[RECORD_VALUE]; /* numbers of the job's GPUs on this node, "0,2-3" */
} record;

/* Writes <state>/<job>, whole or not at all. Returns NULL or what failed. */
const char *record_write(const char *state, uint32_t job, const record *what);

/* Fills `out`; `known` stays false when there is none that only root can have written. */
void record_read(const char *state, uint32_t job, record *out);

void record_remove(const char *state, uint32_t job);

#endif
