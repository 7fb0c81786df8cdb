/* Stands in for Slurm: gives the plugin the functions of libspank, and drives its parts by word of command.
 * usage: stub parse FILE | read FILE | judge FILE PARTITION ACCOUNT [IMAGE] | glob < PAIRS | settings NODE [WORD...]
 *        listed LIST NUMBER | request image|mount|home|env-name TEXT | asks OPTION VALUE | keeps PLACE PATTERNS < NAMES
 *        devices DEV CAPABILITIES LISTED | variables | image FILE | layer DIRECTORY NAME IMAGE | envdir WORD USER DATA_HOME HOME | client
 *        program NAME PATH | list WORD... | record DIRECTORY JOB [PARTITION ACCOUNT GPUS] | init CONTEXT [WORD...] | prolog JOB [WORD...]
 *        epilog JOB [WORD...] */
#include <slurm/spank.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <unistd.h>

#include "client.h"
#include "devices.h"
#include "environment.h"
#include "image.h"
#include "layer.h"
#include "policy.h"
#include "program.h"
#include "record.h"
#include "request.h"
#include "settings.h"

extern int slurm_spank_init(spank_t, int, char **), slurm_spank_job_prolog(spank_t, int, char **),
	slurm_spank_job_epilog(spank_t, int, char **),
	slurm_spank_exit(spank_t, int, char **);

static spank_context_t context = S_CTX_REMOTE;
static uint32_t job = 7;
static const char *given, *given_value; /* the one option on the command line; NULL: hostile values of all */

spank_context_t spank_context(void) { return context; }
int spank_remote(spank_t sp) { (void)sp; return context == S_CTX_REMOTE; }

spank_err_t spank_option_register(spank_t sp, struct spank_option *option)
{
	static const char *const hostile[] = { NULL, "", "%s%n%n%n", "../../../etc/shadow", "a b\nc", "$(reboot)" };

	(void)sp;
	if (given) {
		if (!strcmp(option->name, given))
			option->cb(option->val, option->has_arg ? given_value : NULL, 1);
		return ESPANK_SUCCESS;
	}
	printf("option %s %d\n", option->name, option->has_arg);
	for (size_t i = 0; i < sizeof(hostile) / sizeof(hostile[0]); i++)
		printf("callback %d\n", option->cb(option->val, hostile[i], context == S_CTX_REMOTE));
	return ESPANK_SUCCESS;
}

spank_err_t spank_option_getopt(spank_t sp, struct spank_option *option, char **value)
{
	(void)sp, (void)option, (void)value;
	return ESPANK_ERROR;
}

spank_err_t spank_get_item(spank_t sp, spank_item_t item, ...)
{
	va_list list;

	(void)sp;
	va_start(list, item);
	if (item == S_JOB_ID)
		*va_arg(list, uint32_t *) = job;
	va_end(list);
	return ESPANK_SUCCESS;
}

spank_err_t spank_getenv(spank_t sp, const char *name, char *out, int size)
{
	(void)sp, (void)name, (void)out, (void)size;
	return ESPANK_ENV_NOEXIST;
}

spank_err_t spank_setenv(spank_t sp, const char *name, const char *value, int over)
{
	(void)sp, (void)name, (void)value, (void)over;
	return ESPANK_SUCCESS;
}

spank_err_t spank_unsetenv(spank_t sp, const char *name)
{
	(void)sp, (void)name;
	return ESPANK_SUCCESS;
}

void slurm_error(const char *format, ...)
{
	va_list list;

	va_start(list, format);
	fputs("error ", stdout);
	vprintf(format, list);
	putchar('\n');
	va_end(list);
}

static policy rules;

static int parse(const char *path)
{
	static char text[POLICY_MAX_BYTES * 2];
	FILE *file = fopen(path, "rb");
	size_t size = fread(text, 1, sizeof(text), file);
	/* An exact copy, so that reading one byte too far is seen. */
	char *exact = malloc(size ? size : 1);

	fclose(file);
	memcpy(exact, text, size);
	policy_parse(&rules, exact, size);
	free(exact);
	printf("%zu rules, %s, %s\n", rules.n_rules, rules.refuse_when_broken ? "refuse" : "accept", rules.problem);
	return 0;
}

/* As a step reads it, which believes root's file only. */
static int show_policy(const char *path)
{
	bool whole = policy_read(&rules, path);

	printf("%d %zu rules, %s, %s\n", whole, rules.n_rules, rules.refuse_when_broken ? "refuse" : "accept", rules.problem);
	return 0;
}

static int judge(char *argv[])
{
	policy_place place = { strcmp(argv[3], "-") ? argv[3] : NULL, strcmp(argv[4], "-") ? argv[4] : NULL };
	const char *why = "";
	const policy_rule *rule;

	parse(argv[2]);
	rule = argv[5] ? policy_image(&rules, &place, argv[5], &why) : policy_isolation(&rules, &place);
	printf("rule %s: %s\n", rule ? rule->name : "", why);
	return 0;
}

static int glob(void)
{
	char pattern[256], text[256];

	while (fgets(pattern, sizeof(pattern), stdin) && fgets(text, sizeof(text), stdin)) {
		pattern[strcspn(pattern, "\n")] = text[strcspn(text, "\n")] = '\0';
		printf("%d\n", policy_glob(pattern, text));
	}
	return 0;
}

static int show_settings(int argc, char *argv[])
{
	settings site;

	settings_parse(&site, argc - 3, argv + 3, argv[2]);
	printf("policy %s\nstate %s\ngpus %s\ncapabilities %s\nimage_owners %s\ntmp_size %s\nallow_env %s\nproblem %s\n", site.policy, site.state, site.gpus,
	       site.capabilities, site.image_owners, site.tmp_size, site.allow_env, site.problem);
	for (size_t i = 0; i < site.n_keep; i++)
		printf("keep %s\n", site.keep[i]);
	return 0;
}

static int show_record(int argc, char *argv[])
{
	record it = { .known = true };
	uint32_t id = (uint32_t)strtoul(argv[3], NULL, 10);

	if (argc > 4) {
		const char *problem;

		snprintf(it.partition, sizeof(it.partition), "%s", argv[4]);
		snprintf(it.account, sizeof(it.account), "%s", argv[5]);
		snprintf(it.gpus, sizeof(it.gpus), "%s", argv[6]);
		problem = record_write(argv[2], id, &it);
		printf("problem %s\n", problem ? problem : "");
	}
	record_read(argv[2], id, &it);
	printf("known %d partition %s account %s gpus %s\n", it.known, it.partition, it.account, it.gpus);
	return 0;
}

/* Opens it, and again while it is held. */
static int show_layer(char *argv[])
{
	layer first, second;
	char base[LAYER_IDENTITY] = "", problem[LAYER_PROBLEM] = "";
	int image = open(argv[4], O_RDONLY), status;

	printf("name %d identity %d ", layer_is_name(argv[3]), layer_identity(base, argv[4], image));
	printf("%s\n", base);
	status = layer_open(&first, argv[2], argv[3], base, argv[4], problem);
	printf("%d %s\n", status, problem);
	if (status == 0) {
		printf("%d %s\n", layer_open(&second, argv[2], argv[3], base, argv[4], problem), problem);
		layer_close(&first);
	}
	close(image);
	return 0;
}

/* Holds it open until its input ends. */
static int show_image(const char *name)
{
	static char path[IMAGE_MAX + 1];
	settings site;
	const char *why = NULL;
	int fd;

	settings_parse(&site, 0, NULL, "");
	fd = image_open(&site, name, path, &why);
	printf("%d %s\n", fd < 0 ? -fd : 0, fd < 0 ? why : path);
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}

static int show_env_dir(char *argv[])
{
	settings site;
	char out[SETTINGS_MAX_PATH] = "";

	settings_parse(&site, *argv[2] ? 1 : 0, argv + 2, "n001");
	printf("%d %s\n", settings_env_dir(&site, out, argv[3], argv[4], argv[5]), out);
	return 0;
}

static int show_program(const char *name, const char *path)
{
	char problem[PROGRAM_PROBLEM] = "";
	int status = program_missing(name, path, name, problem);

	printf("%d %s\n", status, problem);
	return 0;
}

static int show_client(void)
{
	static client it;

	printf("%d\n%s\n%s\n", client_find(&it), it.loader, it.prefix);
	for (size_t i = 0; i < it.n_libraries; i++)
		printf("%s\n", it.libraries[i]);
	return 0;
}

static bool show_hidden(void *with, int file, const char *name)
{
	(void)with, (void)file;
	printf("hidden %s\n", name);
	return true;
}

/* Below a made-up /dev, in which a mode without any right stands for the cgroup's refusal. */
static int show_devices(const char *dev, const char *capabilities, const char *listed)
{
	static devices all;
	int dir = open(dev, O_RDONLY | O_DIRECTORY);

	if (!devices_find(&all, dir, "nvidia", capabilities))
		return printf("not found\n") < 0;
	printf("told %d\n", devices_decide(&all, listed));
	for (size_t i = 0; i < all.n_gpus; i++)
		printf("%s %u\n", all.gpus[i].own ? "own" : "other", all.gpus[i].number);
	for (size_t i = 0; i < all.n_migs; i++)
		printf("%s %u:%u:%u\n", all.migs[i].own ? "own" : "other", all.migs[i].gpu, all.migs[i].gi, all.migs[i].ci);
	return !devices_hide(&all, dir, "nvidia", show_hidden, NULL);
}

static int show_request(const char *what, const char *text)
{
	static request it;
	const char *problem;

	if (!strcmp(what, "image"))
		problem = request_take_image(&it, text);
	else if (!strcmp(what, "mount"))
		problem = request_take_mounts(&it, text);
	else if (!strcmp(what, "env-name"))
		problem = request_take_env_name(&it, text);
	else
		problem = request_take_home(&it, text);
	printf("problem %s\n", problem ? problem : "");
	for (size_t i = 0; !problem && i < it.n_mounts; i++)
		printf("mount %s %s %d\n", it.mounts[i].source, it.mounts[i].target, it.mounts[i].read_only);
	return 0;
}

static int show_variables(void)
{
	const char *const *lists[] = { environment_allowed, environment_of_the_host, environment_secrets };

	for (size_t list = 0; list < sizeof(lists) / sizeof(lists[0]); list++) {
		for (size_t i = 0; lists[list][i]; i++)
			puts(lists[list][i]);
		puts("");
	}
	return 0;
}

/* What the text of an /etc/environment on the input says. */
static int show_environment_of_image(void)
{
	static char text[65536];
	char *rest = text, *name, *value;

	text[fread(text, 1, sizeof(text) - 1, stdin)] = '\0';
	while (environment_next(&rest, &name, &value))
		printf("%s=%s\n", name, value);
	return 0;
}

/* Of each entry on a line of the input, whether it stays. */
static int show_kept(const char *place, const char *patterns)
{
	environment_place where = !strcmp(place, "host") ? HOST_ROOT_CLEAN : !strcmp(place, "clean") ? IMAGE_CLEAN : IMAGE_FREE;
	char *entry = NULL;
	size_t room = 0;

	for (ssize_t got; (got = getline(&entry, &room, stdin)) >= 0;) {
		entry[strcspn(entry, "\n")] = '\0';
		printf("%d\n", environment_keeps(entry, patterns, where));
	}
	free(entry);
	return 0;
}

int main(int argc, char *argv[])
{
	if (argc > 2 && !strcmp(argv[1], "parse"))
		return parse(argv[2]);
	if (argc > 4 && !strcmp(argv[1], "judge"))
		return judge(argv);
	if (argc > 1 && !strcmp(argv[1], "glob"))
		return glob();
	if (argc > 2 && !strcmp(argv[1], "settings"))
		return show_settings(argc, argv);
	if (argc > 3 && !strcmp(argv[1], "listed"))
		return printf("%d\n", number_listed(argv[2], (unsigned)strtoul(argv[3], NULL, 10))) < 0;
	if (argc > 3 && !strcmp(argv[1], "request"))
		return show_request(argv[2], argv[3]);
	if (argc > 3 && !strcmp(argv[1], "asks")) {
		given = argv[2];
		given_value = argv[3];
		request_register(NULL);
		return printf("%d\n", request_of_step(NULL)->isolate) < 0;
	}
	if (argc > 4 && !strcmp(argv[1], "layer"))
		return show_layer(argv);
	if (argc > 2 && !strcmp(argv[1], "image"))
		return show_image(argv[2]);
	if (argc > 5 && !strcmp(argv[1], "envdir"))
		return show_env_dir(argv);
	if (argc > 3 && !strcmp(argv[1], "program"))
		return show_program(argv[2], argv[3]);
	if (argc > 1 && !strcmp(argv[1], "list"))
		return printf("%d\n", program_is_list(argc - 2, argv + 2)) < 0;
	if (argc > 1 && !strcmp(argv[1], "client"))
		return show_client();
	if (argc > 3 && !strcmp(argv[1], "keeps"))
		return show_kept(argv[2], argv[3]);
	if (argc > 4 && !strcmp(argv[1], "devices"))
		return show_devices(argv[2], argv[3], argv[4]);
	if (argc > 1 && !strcmp(argv[1], "environment-of-image"))
		return show_environment_of_image();
	if (argc > 1 && !strcmp(argv[1], "variables"))
		return show_variables();
	if (argc > 3 && !strcmp(argv[1], "record"))
		return show_record(argc, argv);
	if (argc > 2 && !strcmp(argv[1], "init")) {
		context = (spank_context_t)atoi(argv[2]);
		printf("init %d\n", slurm_spank_init(NULL, argc - 3, argv + 3));
		return printf("exit %d\n", slurm_spank_exit(NULL, 0, NULL)) < 0;
	}
	if (argc > 2 && !strcmp(argv[1], "read"))
		return show_policy(argv[2]);
	if (argc > 2 && !strcmp(argv[1], "epilog")) {
		job = (uint32_t)strtoul(argv[2], NULL, 10);
		return printf("epilog %d\n", slurm_spank_job_epilog(NULL, argc - 3, argv + 3)) < 0;
	}
	if (argc > 2 && !strcmp(argv[1], "prolog")) {
		job = (uint32_t)strtoul(argv[2], NULL, 10);
		return printf("prolog %d\n", slurm_spank_job_prolog(NULL, argc - 3, argv + 3)) < 0;
	}
	return 2;
}
