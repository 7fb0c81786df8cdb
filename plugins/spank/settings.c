#define _GNU_SOURCE
#include "settings.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_path(const char *text)
{
	if (*text != '/')
		return false;
	for (const char *at = text; *at; at++)
		if (iscntrl((unsigned char)*at))
			return false;
	return strstr(text, "/../") == NULL;
}

/* Copies with %n replaced; false when it does not fit or is no absolute path. */
static bool set_path(char *out, const char *text, const char *node)
{
	size_t used = 0;

	while (*text) {
		const char *piece = text;
		size_t length = 1;

		if (text[0] == '%' && text[1] == 'n') {
			piece = node;
			length = strlen(node);
			text++;
		}
		text++;
		if (used + length >= SETTINGS_MAX_PATH)
			return false;
		memcpy(out + used, piece, length);
		used += length;
	}
	out[used] = '\0';
	return is_path(out);
}

static bool set_size(char out[16], const char *text)
{
	size_t digits = strspn(text, "0123456789");
	const char *unit = text + digits;

	if (digits == 0 || digits > 12 || (*unit && (strchr("kmgKMG%", *unit) == NULL || unit[1])))
		return false;
	snprintf(out, 16, "%s", text);
	return true;
}

static bool set_owners(char out[64], const char *text)
{
	if (strlen(text) >= 64 || (strcmp(text, "any") != 0 && (!*text || text[strspn(text, "0123456789,-")])))
		return false;
	strcpy(out, text);
	return true;
}

/* Patterns with commas. A part that cannot be a name or a pattern of one spoils all of it. */
static bool set_patterns(char out[SETTINGS_MAX_PATH], const char *text)
{
	if (!*text || strlen(text) >= SETTINGS_MAX_PATH)
		return false;
	for (const char *at = text; *at; at++)
		if (!isalnum((unsigned char)*at) && !strchr("_*,", *at))
			return false;
	strcpy(out, text);
	return true;
}

static bool take(settings *out, const char *word, const char *node)
{
	if (strncmp(word, "policy=", 7) == 0)
		return set_path(out->policy, word + 7, node);
	if (strncmp(word, "state=", 6) == 0)
		return set_path(out->state, word + 6, node);
	if (strncmp(word, "gpus=", 5) == 0)
		return set_path(out->gpus, word + 5, node);
	if (strncmp(word, "capabilities=", 13) == 0)
		return set_path(out->capabilities, word + 13, node);
	if (strncmp(word, "env_dir=", 8) == 0)
		return set_path(out->env_dir, word + 8, node);
	if (strncmp(word, "tmp_size=", 9) == 0)
		return set_size(out->tmp_size, word + 9);
	if (strncmp(word, "image_owners=", 13) == 0)
		return set_owners(out->image_owners, word + 13);
	if (strncmp(word, "allow_env=", 10) == 0)
		return set_patterns(out->allow_env, word + 10);
	if (strncmp(word, "keep=", 5) == 0 && out->n_keep < SETTINGS_MAX_PATHS) {
		if (!set_path(out->keep[out->n_keep], word + 5, node))
			return false;
		out->n_keep++;
		return true;
	}
	return false;
}

void settings_parse(settings *out, int argc, char *const argv[], const char *node)
{
	static const settings defaults = {
		.policy = "/etc/slurm/sovctl-policy.conf",
		.state = "/run/sovctl/spank",
		.gpus = "/dev/nvidia",
		.capabilities = "/proc/driver/nvidia/capabilities",
		.image_owners = "0",
		.tmp_size = "50%",
	};

	*out = defaults;
	for (int i = 0; i < argc; i++) {
		settings before = *out;
		if (!take(out, argv[i], node ? node : "")) {
			*out = before;
			snprintf(out->problem, sizeof(out->problem), "cannot use '%.200s' in plugstack.conf", argv[i]);
		}
	}
}

bool settings_env_dir(const settings *site, char out[SETTINGS_MAX_PATH], const char *user, const char *data_home,
		      const char *home)
{
	const char *mark = strstr(site->env_dir, "%u");
	int length;

	if (mark)
		length = snprintf(out, SETTINGS_MAX_PATH, "%.*s%s%s", (int)(mark - site->env_dir), site->env_dir, user, mark + 2);
	else if (*site->env_dir)
		length = snprintf(out, SETTINGS_MAX_PATH, "%s", site->env_dir);
	else if (*data_home == '/')
		length = snprintf(out, SETTINGS_MAX_PATH, "%s/sovctl/env", data_home);
	else
		length = snprintf(out, SETTINGS_MAX_PATH, "%s/.local/share/sovctl/env", home);
	return length > 0 && length < SETTINGS_MAX_PATH && is_path(out) && (*site->env_dir || *data_home == '/' || *home == '/');
}

bool number_listed(const char *list, unsigned number)
{
	while (list && isdigit((unsigned char)*list)) {
		char *end;
		unsigned long first = strtoul(list, &end, 10), last = first;

		if (*end == '-' && isdigit((unsigned char)end[1]))
			last = strtoul(end + 1, &end, 10);
		if (first <= number && number <= last)
			return true;
		list = *end == ',' ? end + 1 : NULL;
	}
	return false;
}

bool plain_value(const char *text, size_t size)
{
	size_t length = strnlen(text, size);

	if (length == size)
		return false;
	for (size_t i = 0; i < length; i++)
		if (!isalnum((unsigned char)text[i]) && !strchr("._,-", text[i]))
			return false;
	return true;
}
