/* In slurmstepd: judges the step, sets up its private namespaces, has its tasks join them.
 *
 * user_init runs in the thread that forks the tasks, after the output of the step is connected and before the first
 * task. Slurm ignores the failure of an optional plugin and would start the task without isolation, and a failure in
 * user_init of a batch step drains the node. So nothing here returns a failure: a task that may not run says why and
 * ends itself. */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client.h"
#include "contexts.h"
#include "environment.h"
#include "exit_status.h"
#include "layer.h"
#include "policy.h"
#include "program.h"
#include "record.h"
#include "request.h"
#include "sandbox.h"

#define BATCH_STEP 0xfffffffbU /* SLURM_BATCH_SCRIPT of slurm.h */

static struct {
	sandbox box;
	bool isolated;
	int status; /* not 0: no task may run, and this is its exit status */
	char why[512];
	char cwd[PATH_MAX];
	const request *asked;
	const char *allow_env; /* of the site */
	int image; /* the file; -1: none */
	layer kept;
	client client;
	bool of_script; /* the step of a batch script */
} step = { .box = SANDBOX_NONE, .image = -1, .kept = { .dir = -1 }, .allow_env = "" };

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
	/* The user's words stand in it, and it goes into slurmd's log too: they are to forge no line there. */
	for (char *at = step.why; *at; at++)
		if (iscntrl((unsigned char)*at))
			*at = '?';
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

/* With the user's rights: a name that this user cannot walk to is not there. */
static void open_image(const settings *site, char path[IMAGE_MAX + 1])
{
	const char *why = NULL;

	if (!*step.asked->image)
		return;
	step.image = image_open(site, step.asked->image, path, &why);
	if (step.image < 0)
		refuse(-step.image, "cannot use the image %.200s: %s%s", step.asked->image, why, "");
}

/* The user's layer over the image that has just been opened; with the user's rights too. */
static void open_layer(spank_t spank, const settings *site, const char *image)
{
	char home[SETTINGS_MAX_PATH] = "", data_home[SETTINGS_MAX_PATH] = "", directory[SETTINGS_MAX_PATH];
	static char base[LAYER_IDENTITY];
	char problem[LAYER_PROBLEM];
	const struct passwd *user = getpwuid(geteuid());
	int status;

	if (!*step.asked->env_name || step.image < 0)
		return;
	spank_getenv(spank, "HOME", home, sizeof(home));
	spank_getenv(spank, "XDG_DATA_HOME", data_home, sizeof(data_home));
	if (!user || !settings_env_dir(site, directory, user->pw_name, data_home, home) ||
	    !layer_identity(base, image, step.image)) {
		refuse(USAGE, "--sov-env-name needs HOME to be a full path%s%s%s", "", "", "");
		return;
	}
	status = layer_open(&step.kept, directory, step.asked->env_name, base, image, problem);
	if (status)
		refuse(status, "%s%s%s", problem, "", "");
}

/* Slurm's commands are to be seen in the image. */
static void find_client(spank_t spank)
{
	char *slash;

	if (!step.asked->slurm_client)
		return;
	if (!client_find(&step.client)) {
		refuse(FAILED, "--sov-slurm-client: this node does not tell where its Slurm is%s%s%s", "", "", "");
		return;
	}
	if (spank_getenv(spank, "SLURM_CONF", step.client.conf, sizeof(step.client.conf)) != ESPANK_SUCCESS)
		step.client.conf[0] = '\0';
	slash = strrchr(step.client.conf, '/');
	if (slash)
		*slash = '\0';
	if (!slash || !request_is_target(step.client.conf))
		step.client.conf[0] = '\0';
}

/* Whether the step has to be isolated, by its own wish or by a rule. */
static bool judge(spank_t spank, const settings *site, const record *job, const char *image)
{
	policy *rules = calloc(1, sizeof(*rules));
	policy_place place = { job->known ? job->partition : NULL, job->known ? job->account : NULL };
	bool isolate = step.asked->isolate;

	if (!rules) {
		refuse(FAILED, "out of memory%s%s%s", "", "", "");
	} else if (!policy_read(rules, site->policy)) {
		slurm_error("sovctl: %s is broken: %s", site->policy, rules->problem);
		if (rules->refuse_when_broken)
			refuse(REFUSED, "refused by rule on-broken: the policy file of this node is broken%s%s%s", "", "", "");
	} else {
		check_images(spank, rules, &place);
		if (*image)
			check_image(rules, &place, image);
		isolate = isolate || policy_isolation(rules, &place);
	}
	free(rules);
	return isolate;
}

static void isolate(const settings *site, const record *job, const image_plan *image)
{
	sandbox_plan plan = { .site = site, .gpus = job->gpus, .image = step.image >= 0 ? image : NULL,
			      .private_network = step.asked->private_network };
	char problem[SANDBOX_PROBLEM] = "";
	int status = sandbox_start(&step.box, &plan, problem);

	step.isolated = status == 0;
	if (step.isolated && step.box.unknown_devices)
		slurm_error("sovctl: without ConstrainDevices (cgroup.conf) it cannot be told which MIG instances are the job's, "
			    "so it has none");
	if (status)
		refuse(status, "this step cannot be isolated: %s%s%s", problem, "", "");
}

/* The rest of what an image needs to know of the step. */
static void describe(spank_t spank, image_plan *plan, char home[SETTINGS_MAX_PATH])
{
	uint32_t step_id = 0;
	int argc = 0, n_groups = 0;
	char **argv = NULL;
	gid_t *groups = NULL;

	spank_get_item(spank, S_JOB_UID, &plan->uid);
	spank_get_item(spank, S_JOB_GID, &plan->gid);
	if (spank_get_item(spank, S_JOB_SUPPLEMENTARY_GIDS, &groups, &n_groups) == ESPANK_SUCCESS && n_groups > 0) {
		plan->groups = groups;
		plan->n_groups = (size_t)n_groups;
	}
	/* Slurm's own copy of the script, which the step is about to run. */
	if (spank_get_item(spank, S_JOB_STEPID, &step_id) == ESPANK_SUCCESS && step_id == BATCH_STEP &&
	    spank_get_item(spank, S_JOB_ARGV, &argc, &argv) == ESPANK_SUCCESS && argc > 0 && argv[0][0] == '/')
		plan->script = argv[0];
	step.of_script = plan->script != NULL;
	if (plan->wish->home) {
		if (spank_getenv(spank, "HOME", home, SETTINGS_MAX_PATH) == ESPANK_SUCCESS && request_is_target(home))
			plan->home = home;
		else
			refuse(USAGE, "--sov-home=mount needs HOME to be a full path%s%s%s", "", "", "");
	}
}

void step_user_init(spank_t spank, const settings *site)
{
	static char path[IMAGE_MAX + 1], home[SETTINGS_MAX_PATH];
	uid_t user = geteuid();
	uint32_t job_id = 0;
	record job;

	step.asked = request_of_step(spank);
	step.allow_env = site->allow_env;
	if (step.asked->problem)
		refuse(USAGE, "%s%s%s", step.asked->problem, "", "");
	image_plan plan = { .wish = step.asked };
	open_image(site, path);
	if (!step.status)
		open_layer(spank, site, path);
	find_client(spank);
	plan.file = step.image;
	plan.kept = step.kept.dir >= 0 ? &step.kept : NULL;
	plan.client = step.asked->slurm_client ? &step.client : NULL;
	describe(spank, &plan, home);
	/* Slurm has only lowered the effective rights here; a job of root's has them still. */
	if (seteuid(0) != 0) {
		if (step.asked->isolate)
			refuse(FAILED, "only where slurmd is root's can a step be isolated%s%s%s", "", "", "");
		slurm_error("sovctl: slurmd is not root's; the site's rules are not enforced here");
		return;
	}
	spank_get_item(spank, S_JOB_ID, &job_id);
	record_read(site->state, job_id, &job);
	if (judge(spank, site, &job, path) && !step.status)
		isolate(site, &job, &plan);
	if (step.status)
		slurm_error("sovctl: job %" PRIu32 ": %s", job_id, step.why);
	if (seteuid(user) != 0)
		refuse(FAILED, "cannot give root's rights up again%s%s%s", "", "", "");
	if (step.image >= 0)
		close(step.image);
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

/* Joining the mounts leaves a task in /. Slurm itself then goes to the working directory, or to /tmp and says so; this
 * is for a release that does not. */
static void back_to_work(void)
{
	char now[PATH_MAX];

	if (getcwd(now, sizeof(now)) && strcmp(now, "/") != 0)
		return;
	if (*step.cwd && chdir(step.cwd) == 0)
		return;
	dprintf(STDERR_FILENO, "sovctl: %s cannot be seen in this isolated step; going to /tmp instead\n", step.cwd);
	if (chdir("/tmp") != 0)
		_exit(FAILED);
}

static bool has_image(void)
{
	return step.asked && *step.asked->image;
}

/* An image always gets less than all: the host's PATH is wrong in it, and no secret belongs there. An isolated step on
 * the host's own root has a clean environment: what other variables name there, it no longer sees. */
static bool keeps_less(environment_place *place)
{
	*place = !has_image() ? HOST_ROOT_CLEAN : step.asked->clean_env ? IMAGE_CLEAN : IMAGE_FREE;
	return has_image() || step.isolated || step.asked->clean_env;
}

/* What the image says of itself, below what the job says. With the rights of the task, which is in the image. */
static void take_environment_of_image(spank_t spank)
{
	static char text[65536];
	char *rest = text, *name, *value;
	struct stat about;
	ssize_t got = -1;
	int fd = open("/etc/environment", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (fstat(fd, &about) == 0 && S_ISREG(about.st_mode))
		got = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[got > 0 ? got : 0] = '\0';
	while (environment_next(&rest, &name, &value))
		spank_setenv(spank, name, value, 0);
}

static void clean_environment(spank_t spank, environment_place place)
{
	char **env = NULL;

	if (spank_get_item(spank, S_JOB_ENV, &env) != ESPANK_SUCCESS || !env)
		return;
	/* Taking one out moves the rest; start over where it was. */
	for (size_t i = 0; env && env[i];) {
		const char *entry = env[i];
		char *name = environment_keeps(entry, step.allow_env, place) ? NULL : strndup(entry, strcspn(entry, "="));
		bool taken = name && spank_unsetenv(spank, name) == ESPANK_SUCCESS;

		free(name);
		if (taken && spank_get_item(spank, S_JOB_ENV, &env) != ESPANK_SUCCESS)
			return;
		if (!taken || (env && env[i] == entry))
			i++;
	}
	if (place == HOST_ROOT_CLEAN)
		return;
	if (step.isolated)
		take_environment_of_image(spank);
	/* Unless the image has one, or the site lets the job's through. */
	spank_setenv(spank, "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 0);
}

static void find_slurm_first(spank_t spank)
{
	char before[4096] = "", path[sizeof(before) + sizeof(CLIENT_PATH)];

	if (!step.isolated || !step.asked->slurm_client || spank_getenv(spank, "PATH", before, sizeof(before)) == ESPANK_NOSPACE ||
	    strncmp(before, CLIENT_PATH, strlen(CLIENT_PATH)) == 0)
		return;
	snprintf(path, sizeof(path), CLIENT_PATH "%s%s", *before ? ":" : "", before);
	spank_setenv(spank, "PATH", path, 1);
}

/* Says what Slurm, which only has the kernel's word for it, would not. Its own list of programs it knows by itself. */
static void check_program(spank_t spank)
{
	char path[4096] = "", problem[PROGRAM_PROBLEM];
	char **argv = NULL;
	int argc = 0, status;

	if (step.status || !step.isolated || !has_image() ||
	    spank_get_item(spank, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS || argc < 1 || program_is_list(argc, argv) ||
	    spank_getenv(spank, "PATH", path, sizeof(path)) == ESPANK_NOSPACE)
		return;
	status = program_missing(argv[0], path, step.of_script ? "the batch script" : argv[0], problem);
	if (status)
		refuse(status, "%s%s%s", problem, "", "");
}

void step_task_user(spank_t spank)
{
	environment_place place;

	if (!step.status && step.asked) {
		if (keeps_less(&place))
			clean_environment(spank, place);
		find_slurm_first(spank);
		request_hand_on(spank, step.asked);
	}
	if (!step.status && step.isolated) {
		back_to_work();
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
			refuse(FAILED, "cannot forbid new privileges: %s%s%s", strerror(errno), "", "");
	}
	check_program(spank);
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
	layer_close(&step.kept); /* after the last task that could write to it */
	step.isolated = false;
}
