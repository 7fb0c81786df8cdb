/* One file a context; plugin.c hands Slurm's calls over to them. All return ESPANK_SUCCESS: what goes wrong ends the
 * task that it concerns, and never the node. */
#ifndef SOVCTL_CONTEXTS_H
#define SOVCTL_CONTEXTS_H

#include <slurm/spank.h>

#include "settings.h"

/* step.c, in slurmstepd */
void step_user_init(spank_t spank, const settings *site);
void step_task_privileged(spank_t spank);
void step_task_user(spank_t spank);
void step_forked(void);
void step_over(void);

/* job_script.c, in the processes that run prolog and epilog */
void job_begins(spank_t spank, const settings *site);
void job_ends(spank_t spank, const settings *site);

#endif
