/* What Slurm calls. Hands over to the file of the context; returns success always (see contexts.h). */
#include <stdlib.h>

#include "contexts.h"
#include "request.h"

SPANK_PLUGIN(sovctl, 1)

static settings site;

int slurm_spank_init(spank_t spank, int ac, char *argv[])
{
	spank_context_t context = spank_context();

	/* slurmd gives its steps and scripts the node's name; it does so itself, not the user. */
	settings_parse(&site, ac, argv, getenv("SLURMD_NODENAME"));
	if (context == S_CTX_LOCAL || context == S_CTX_ALLOCATOR || context == S_CTX_REMOTE)
		request_register(spank);
	if (*site.problem && context != S_CTX_LOCAL && context != S_CTX_ALLOCATOR)
		slurm_error("sovctl: %s", site.problem);
	return ESPANK_SUCCESS;
}

int slurm_spank_user_init(spank_t spank, int ac, char *argv[])
{
	(void)ac;
	(void)argv;
	step_user_init(spank, &site);
	return ESPANK_SUCCESS;
}

int slurm_spank_task_init_privileged(spank_t spank, int ac, char *argv[])
{
	(void)ac;
	(void)argv;
	step_task_privileged(spank);
	return ESPANK_SUCCESS;
}

int slurm_spank_task_init(spank_t spank, int ac, char *argv[])
{
	(void)ac;
	(void)argv;
	step_task_user(spank);
	return ESPANK_SUCCESS;
}

int slurm_spank_task_post_fork(spank_t spank, int ac, char *argv[])
{
	(void)spank;
	(void)ac;
	(void)argv;
	step_forked();
	return ESPANK_SUCCESS;
}

int slurm_spank_exit(spank_t spank, int ac, char *argv[])
{
	(void)ac;
	(void)argv;
	if (spank_remote(spank) == 1)
		step_over();
	return ESPANK_SUCCESS;
}

int slurm_spank_job_prolog(spank_t spank, int ac, char *argv[])
{
	settings_parse(&site, ac, argv, getenv("SLURMD_NODENAME"));
	job_begins(spank, &site);
	return ESPANK_SUCCESS;
}

int slurm_spank_job_epilog(spank_t spank, int ac, char *argv[])
{
	settings_parse(&site, ac, argv, getenv("SLURMD_NODENAME"));
	job_ends(spank, &site);
	return ESPANK_SUCCESS;
}
