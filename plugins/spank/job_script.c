/* In the processes that slurmd starts for prolog and epilog: keeps and drops the record of the job. The environment
 * here is slurmd's own; nothing of it comes from the user but the values of SPANK_ variables, which are not read. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "contexts.h"
#include "record.h"

static void take(char out[RECORD_VALUE], const char *name)
{
	const char *value = getenv(name);

	if (value && plain_value(value, RECORD_VALUE))
		strcpy(out, value);
}

static uint32_t job_id(spank_t spank)
{
	uint32_t id = 0;

	spank_get_item(spank, S_JOB_ID, &id);
	return id;
}

void job_begins(spank_t spank, const settings *site)
{
	record job = { .known = true };
	const char *problem;

	take(job.partition, "SLURM_JOB_PARTITION");
	take(job.account, "SLURM_JOB_ACCOUNT");
	take(job.gpus, "SLURM_JOB_GPUS");
	problem = record_write(site->state, job_id(spank), &job);
	if (problem)
		slurm_error("sovctl: job %" PRIu32 ": %s; every rule holds for its steps", job_id(spank), problem);
}

void job_ends(spank_t spank, const settings *site)
{
	record_remove(site->state, job_id(spank));
}
