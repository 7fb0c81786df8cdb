/* In slurmstepd: judges the step, sets up its private namespaces, has its tasks join them.
 *
 * user_init runs in the thread that forks the tasks, after the output of the step is connected and before the first
 * task. Slurm ignores the failure of an optional plugin and would start the task without isolation, and a failure in
 * user_init of a batch step drains the node. So nothing here returns a failure: a task that may not run says why and
 * ends itself. */
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "contexts.h"
#include "policy.h"
#include "record.h"
#include "request.h"
#include "sandbox.h"

#define REFUSED 3
#define FAILED 1

static struct {
	sandbox box;
	bool isolated;
	int status; /* not 0: no task may run, and this is its exit status */
	char why[512];
	char cwd[PATH_MAX];
} step = { .box = SANDBOX_NONE };

static void refuse(int status, const char *format, const char *first, const char *second, const char *third)
{
	if (step.status)
		return;
	step.status = status;
	/* The format is one of this file's own. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	snprintf(step.why, sizeof(step.why), format, first, second, third);
#pragma GCC diagnostic pop
}

static void check_image(const policy *rules, const policy_place *place, const char *image)
{
	const char *why = "";
	const policy_rule *rule = policy_image(rules, place, image, &why);

	if (rule)
		refuse(REFUSED, "refused by rule %s: the image %.200s is not allowed: %s", rule->name, image, why);
}

/* pyxis takes its image from an option or a variable; both come from the user and are judged alike. */
static void check_images(spank_t spank, const policy *rules, const policy_place *place)
{
	struct spank_option option = { .name = (char *)"container-image", .has_arg = 1 };
	char text[IMAGE_MAX + 1];
	char *value = NULL;
	spank_err_t got;

	if (spank_option_getopt(spank, &option, &value) == ESPANK_SUCCESS && value)
		check_image(rules, place, value);
	got = spank_getenv(spank, "PYXIS_CONTAINER_IMAGE", text, sizeof(text));
	if (got == ESPANK_SUCCESS && *text)
		check_image(rules, place, text);
	else if (got == ESPANK_NOSPACE)
		refuse(REFUSED, "PYXIS_CONTAINER_IMAGE is longer than any image's name%s%s%s", "", "", "");
}

/* Whether the step has to be isolated, by its own wish or by a rule. */
static bool judge(spank_t spank, const settings *site, const record *job)
{
	policy *rules = calloc(1, sizeof(*rules));
	policy_place place = { job->known ? job->partition : NULL, job->known ? job->account : NULL };
	bool isolate = request_of_step(spank).isolate;

	if (!rules) {
		refuse(FAILED, "out of memory%s%s%s", "", "", "");
	} else if (!policy_read(rules, site->policy)) {
		slurm_error("sovctl: %s is broken: %s", site->policy, rules->problem);
		if (rules->refuse_when_broken)
			refuse(REFUSED, "refused by rule on-broken: the policy file of this node is broken%s%s%s", "", "", "");
	} else {
		check_images(spank, rules, &place);
		isolate = isolate || policy_isolation(rules, &place);
	}
	free(rules);
	return isolate;
}

static void isolate(const settings *site, const record *job)
{
	sandbox_plan plan = { .site = site, .gpus = job->gpus };
	char problem[SANDBOX_PROBLEM] = "";

	step.isolated = sandbox_start(&step.box, &plan, problem);
	if (!step.isolated)
		refuse(FAILED, "this step cannot be isolated: %s%s%s", problem, "", "");
}

void step_user_init(spank_t spank, const settings *site)
{
	uid_t user = geteuid();
	uint32_t job_id = 0;
	record job;

	/* Slurm has only lowered the effective rights here; a job of root's has them still. */
	if (seteuid(0) != 0) {
		refuse(FAILED, "cannot take root's rights back to judge this step%s%s%s", "", "", "");
		return;
	}
	spank_get_item(spank, S_JOB_ID, &job_id);
	record_read(site->state, job_id, &job);
	if (judge(spank, site, &job) && !step.status)
		isolate(site, &job);
	if (step.status)
		slurm_error("sovctl: job %" PRIu32 ": %s", job_id, step.why);
	if (seteuid(user) != 0)
		refuse(FAILED, "cannot give root's rights up again%s%s%s", "", "", "");
}

void step_task_privileged(spank_t spank)
{
	const char *problem;

	(void)spank;
	if (step.status || !step.isolated)
		return;
	if (!getcwd(step.cwd, sizeof(step.cwd)))
		step.cwd[0] = '\0';
	problem = sandbox_join(&step.box);
	if (problem)
		refuse(FAILED, "%s: %s%s", problem, strerror(errno), "");
	/* For whoever is root in here: nothing that is started has any capability. */
	for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
		prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
}

/* Slurm goes to /tmp when the working directory of a job is not there, and says so. */
static void back_to_work(void)
{
	if (*step.cwd && chdir(step.cwd) == 0)
		return;
	dprintf(STDERR_FILENO, "sovctl: %s cannot be seen in this isolated step; going to /tmp instead\n", step.cwd);
	if (chdir("/tmp") != 0 && chdir("/") != 0)
		_exit(FAILED);
}

void step_task_user(spank_t spank)
{
	if (!step.status && step.isolated) {
		back_to_work();
		spank_setenv(spank, ISOLATE_VARIABLE, "1", 1);
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
			refuse(FAILED, "cannot forbid new privileges: %s%s%s", strerror(errno), "", "");
	}
	if (step.status) {
		dprintf(STDERR_FILENO, "sovctl: %s\n", step.why);
		_exit(step.status);
	}
}

void step_forked(void)
{
	sandbox_return(&step.box);
}

void step_over(void)
{
	sandbox_end(&step.box);
	step.isolated = false;
}
