#define _GNU_SOURCE
#include "request.h"

#include <ctype.h>
#include <string.h>

enum { ISOLATE, IMAGE, MOUNT, HOME, CLEAN_ENV, WRITABLE, NETWORK, ENV_NAME, SLURM_CLIENT };

static request asked;

static bool printable(const char *text)
{
	for (; *text; text++)
		if (iscntrl((unsigned char)*text))
			return false;
	return true;
}

/* From /, without '.', '..' and '//', so that a path means what it says. */
static bool plain_path(const char *path)
{
	if (*path != '/' || !printable(path))
		return false;
	while (*path) {
		size_t length = strcspn(++path, "/");

		if (length == 0 || (length == 1 && path[0] == '.') || (length == 2 && path[0] == '.' && path[1] == '.'))
			return false;
		path += length;
	}
	return true;
}

const char *request_take_image(request *into, const char *text)
{
	if (strnlen(text, IMAGE_MAX + 1) > IMAGE_MAX || !plain_path(text))
		return "--sov-image takes the full path of a squashfs file, without '.', '..' or '//'";
	strcpy(into->image, text);
	return NULL;
}

bool request_is_target(const char *path)
{
	static const char *const own[] = { "/proc", "/sys", "/dev" };

	if (!plain_path(path))
		return false;
	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++) {
		size_t length = strlen(own[i]);
		if (strncmp(path, own[i], length) == 0 && (path[length] == '/' || !path[length]))
			return false;
	}
	return true;
}

static const char *take_mount(request *into, char *text)
{
	char *target = strchr(text, ':');
	char *mode = target ? strchr(target + 1, ':') : NULL;
	request_mount *mount;

	if (into->n_mounts == REQUEST_MAX_MOUNTS)
		return "--sov-mount takes at most 16 directories";
	if (target)
		*target++ = '\0';
	if (mode)
		*mode++ = '\0';
	if (mode && strcmp(mode, "ro") != 0 && strcmp(mode, "rw") != 0)
		return "--sov-mount takes SOURCE[:TARGET[:ro]]";
	mount = &into->mounts[into->n_mounts];
	mount->source = text;
	mount->target = target ? target : text;
	mount->read_only = mode && strcmp(mode, "ro") == 0;
	if (!plain_path(mount->source) || !request_is_target(mount->target))
		return "--sov-mount takes full paths without '.', '..' or '//', and no target in /proc, /sys or /dev";
	into->n_mounts++;
	return NULL;
}

const char *request_take_mounts(request *into, const char *text)
{
	char *rest = NULL;
	const char *problem = NULL;

	into->n_mounts = 0;
	if (strnlen(text, REQUEST_TEXT + 1) > REQUEST_TEXT)
		return "--sov-mount is too long";
	strcpy(into->mounts_text, text);
	strcpy(into->mounts_cut, text);
	for (char *one = strtok_r(into->mounts_cut, ",", &rest); one && !problem; one = strtok_r(NULL, ",", &rest))
		problem = take_mount(into, one);
	return problem;
}

const char *request_take_home(request *into, const char *text)
{
	into->home = strcmp(text, "mount") == 0;
	return into->home || strcmp(text, "none") == 0 ? NULL : "--sov-home takes none or mount";
}

const char *request_take_env_name(request *into, const char *text)
{
	if (!layer_is_name(text))
		return "--sov-env-name takes letters, digits, '.', '-' and '_', at most 64";
	strcpy(into->env_name, text);
	return NULL;
}

static const char *take(request *into, int option, const char *text)
{
	switch (option) {
	case ISOLATE:
		into->isolate = true;
		return NULL;
	case CLEAN_ENV:
		into->clean_env = true;
		return NULL;
	case WRITABLE:
		into->writable = true;
		return NULL;
	case NETWORK:
		into->isolate = into->private_network = true;
		return NULL;
	case SLURM_CLIENT:
		into->slurm_client = true;
		return NULL;
	case ENV_NAME:
		return request_take_env_name(into, text);
	case IMAGE:
		return request_take_image(into, text);
	case MOUNT:
		return request_take_mounts(into, text);
	default:
		return request_take_home(into, text);
	}
}

/* srun, sbatch and salloc refuse a bad value at once; a step keeps it as its problem (see contexts.h). */
static int take_option(int option, const char *text, int remote)
{
	const char *problem = take(&asked, option, text ? text : "");

	if (!problem)
		return ESPANK_SUCCESS;
	asked.problem = problem;
	if (remote)
		return ESPANK_SUCCESS;
	slurm_error("sovctl: %s", problem);
	return ESPANK_BAD_ARG;
}

#define OPTION(NAME, VALUE, ARGUMENT, USAGE)                                                                           \
	{ .name = (char *)NAME, .arginfo = (char *)ARGUMENT, .usage = (char *)USAGE, .has_arg = (ARGUMENT) != NULL,    \
	  .val = VALUE, .cb = take_option }

static struct spank_option options[] = {
	OPTION("sov-isolate", ISOLATE, NULL,
	       "private /tmp, /var/tmp, /dev/shm and process view, no new privileges, only the job's GPUs"),
	OPTION("sov-image", IMAGE, "PATH", "squashfs file to be the root directory; isolates too"),
	OPTION("sov-mount", MOUNT, "A[:B[:ro]],...", "directories and files of the host to be seen in the image"),
	OPTION("sov-home", HOME, "none|mount", "whether the home directory is seen in the image (none)"),
	OPTION("sov-clean-env", CLEAN_ENV, NULL, "only variables of Slurm, sovctl, GPUs and communication libraries"),
	OPTION("sov-writable", WRITABLE, NULL, "what is written in the image goes to memory, and is gone with the step"),
	OPTION("sov-env-name", ENV_NAME, "NAME", "your named layer over the image; keeps what is written"),
	OPTION("sov-slurm-client", SLURM_CLIENT, NULL, "the node's Slurm commands, slurm.conf and munge in the image"),
	OPTION("sov-private-network", NETWORK, NULL, "no network but a loopback of the step's own; isolates too"),
};

static const struct {
	const char *name;
	int option;
	bool is_flag;
} variables[] = {
	{ "SOVCTL_SPANK_ISOLATE", ISOLATE, true },     { "SOVCTL_SPANK_IMAGE", IMAGE, false },
	{ "SOVCTL_SPANK_MOUNT", MOUNT, false },	       { "SOVCTL_SPANK_HOME", HOME, false },
	{ "SOVCTL_SPANK_CLEAN_ENV", CLEAN_ENV, true }, { "SOVCTL_SPANK_WRITABLE", WRITABLE, true },
	{ "SOVCTL_SPANK_PRIVATE_NETWORK", NETWORK, true }, { "SOVCTL_SPANK_ENV_NAME", ENV_NAME, false },
	{ "SOVCTL_SPANK_SLURM_CLIENT", SLURM_CLIENT, true },
};
#define N_VARIABLES (sizeof(variables) / sizeof(variables[0]))

void request_register(spank_t spank)
{
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		if (spank_option_register(spank, &options[i]) != ESPANK_SUCCESS)
			slurm_error("sovctl: cannot register --%s", options[i].name);
}

static bool said_by_option(int option)
{
	return (option == IMAGE && *asked.image) || (option == MOUNT && *asked.mounts_text) || (option == HOME && asked.home) ||
	       (option == ENV_NAME && *asked.env_name);
}

const request *request_of_step(spank_t spank)
{
	static char text[REQUEST_TEXT + 1];

	/* A step of an isolated batch script is isolated too; the script's own step used up the options. */
	for (size_t i = 0; i < N_VARIABLES; i++) {
		spank_err_t got = spank_getenv(spank, variables[i].name, text, sizeof(text));
		const char *problem = NULL;

		if (got == ESPANK_NOSPACE && !variables[i].is_flag)
			problem = "a variable SOVCTL_SPANK_... is too long";
		else if (got != ESPANK_SUCCESS || !*text || said_by_option(variables[i].option))
			continue;
		else if (!variables[i].is_flag || strcmp(text, "1") == 0)
			problem = take(&asked, variables[i].option, text);
		if (problem && !asked.problem)
			asked.problem = problem;
	}
	asked.isolate = asked.isolate || *asked.image;
	if (!*asked.image && (asked.n_mounts || asked.home || asked.writable || *asked.env_name || asked.slurm_client) &&
	    !asked.problem)
		asked.problem = "--sov-mount, --sov-home, --sov-writable, --sov-env-name and --sov-slurm-client need --sov-image";
	return &asked;
}

void request_hand_on(spank_t spank, const request *all)
{
	const char *values[] = { all->isolate ? "1" : "",      all->image,		     all->mounts_text,
				 all->home ? "mount" : "none", all->clean_env ? "1" : "", all->writable ? "1" : "",
				 all->private_network ? "1" : "", all->env_name,		    all->slurm_client ? "1" : "" };

	for (size_t i = 0; i < N_VARIABLES; i++)
		if (*values[i] && (variables[i].option != HOME || *all->image))
			spank_setenv(spank, variables[i].name, values[i], 1);
}
