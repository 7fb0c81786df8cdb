#define _GNU_SOURCE
#include "policy.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

static const char BLANK[] = " \t\v\f\r";

static bool broken(policy *out, unsigned line, const char *why)
{
	snprintf(out->problem, sizeof(out->problem), "line %u: %s", line, why);
	out->n_rules = 0;
	return false;
}

static bool name_char(char c)
{
	return isalnum((unsigned char)c) || c == '.' || c == '_' || c == '-';
}

static bool is_name(const char *text, size_t length)
{
	if (length == 0)
		return false;
	for (size_t i = 0; i < length; i++)
		if (!name_char(text[i]))
			return false;
	return true;
}

/* A list of names with commas; at most POLICY_MAX_WORDS. */
static bool is_list(const char *text)
{
	size_t count = 0;

	for (;;) {
		size_t length = strcspn(text, ",");
		if (!is_name(text, length) || ++count > POLICY_MAX_WORDS)
			return false;
		if (!text[length])
			return true;
		text += length + 1;
	}
}

static size_t cut_words(char *line, char *words[POLICY_MAX_WORDS])
{
	size_t count = 0;
	char *rest = NULL;

	for (char *word = strtok_r(line, BLANK, &rest); word; word = strtok_r(NULL, BLANK, &rest)) {
		if (count == POLICY_MAX_WORDS)
			return POLICY_MAX_WORDS + 1;
		words[count++] = word;
	}
	return count;
}

/* "" when the word is no condition, NULL when it was taken, else what is wrong. */
static const char *take_condition(policy_rule *rule, const char *word)
{
	const char **slot;

	if (strncmp(word, "partition=", 10) == 0)
		slot = &rule->partition;
	else if (strncmp(word, "account=", 8) == 0)
		slot = &rule->account;
	else
		return "";
	word = strchr(word, '=') + 1;
	if (!*word)
		return "";
	if (*slot)
		return "a condition twice";
	if (!is_list(word))
		return "not a list of names";
	*slot = word;
	return NULL;
}

static const char *fill_rule(policy_rule *rule, char *words[], size_t count)
{
	size_t i = 2;
	const char *problem;

	for (; i < count; i++) {
		problem = take_condition(rule, words[i]);
		if (problem && *problem)
			return problem;
		if (problem)
			break;
	}
	for (; i < count; i++)
		rule->patterns[rule->n_patterns++] = words[i];
	if (rule->isolate && rule->n_patterns)
		return "an isolate rule takes no patterns";
	if (!rule->isolate && !rule->n_patterns)
		return "an images rule needs at least one pattern";
	return NULL;
}

static const char *add_rule(policy *out, char *words[], size_t count)
{
	policy_rule *rule;

	if (strcmp(words[0], "images") != 0 && strcmp(words[0], "isolate") != 0)
		return "unknown word";
	if (count < 2 || !is_name(words[1], strlen(words[1])) || strlen(words[1]) > POLICY_MAX_NAME)
		return "a rule needs a name of letters, digits, '.', '_' and '-'";
	for (size_t i = 0; i < out->n_rules; i++)
		if (strcmp(out->rules[i].name, words[1]) == 0)
			return "a second rule with this name";
	if (out->n_rules == POLICY_MAX_RULES)
		return "too many rules";
	rule = &out->rules[out->n_rules++];
	memset(rule, 0, sizeof(*rule));
	rule->isolate = words[0][1] == 's';
	rule->name = words[1];
	return fill_rule(rule, words, count);
}

static const char *take_line(policy *out, char *line)
{
	char *words[POLICY_MAX_WORDS];
	char *comment = strchr(line, '#');
	size_t count;

	if (comment)
		*comment = '\0';
	count = cut_words(line, words);
	if (count > POLICY_MAX_WORDS)
		return "too many words";
	if (count == 0)
		return NULL;
	if (strcmp(words[0], "on-broken") == 0) {
		bool known = count == 2 && (!strcmp(words[1], "accept") || !strcmp(words[1], "refuse"));
		return known ? NULL : "on-broken takes accept or refuse";
	}
	return add_rule(out, words, count);
}

/* The first line `on-broken accept` that can be read, whatever the rest is like. */
static bool accepts_when_broken(const char *text)
{
	while (text) {
		const char *at = text + strspn(text, BLANK);
		if (strncmp(at, "on-broken", 9) == 0 && strchr(BLANK, at[9]) && at[9]) {
			at += 9 + strspn(at + 9, BLANK);
			if (strncmp(at, "accept", 6) == 0) {
				at += 6 + strspn(at + 6, BLANK);
				if (*at == '\n' || *at == '\0')
					return true;
			}
		}
		text = strchr(text, '\n');
		text = text ? text + 1 : NULL;
	}
	return false;
}

bool policy_parse(policy *out, const char *text, size_t size)
{
	size_t kept = size > POLICY_MAX_BYTES ? POLICY_MAX_BYTES : size;
	unsigned number = 0;

	out->n_rules = 0;
	out->problem[0] = '\0';
	memcpy(out->text, text, kept);
	out->text[kept] = '\0';
	out->refuse_when_broken = !accepts_when_broken(out->text);
	if (size > POLICY_MAX_BYTES)
		return broken(out, 0, "the file is too long");
	if (memchr(text, '\0', size))
		return broken(out, 0, "a NUL byte");
	for (char *line = out->text; line;) {
		char *end = strchr(line, '\n');
		const char *problem;

		number++;
		if (end)
			*end = '\0';
		if (strlen(line) > POLICY_MAX_LINE)
			return broken(out, number, "too long");
		problem = take_line(out, line);
		if (problem)
			return broken(out, number, problem);
		line = end ? end + 1 : NULL;
	}
	return true;
}

static bool unreadable(policy *out, const char *why)
{
	out->refuse_when_broken = true;
	return broken(out, 0, why);
}

bool policy_read(policy *out, const char *path)
{
	char text[POLICY_MAX_BYTES + 1];
	size_t size = 0;
	struct stat about;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd < 0) {
		policy_parse(out, "", 0);
		return errno == ENOENT || unreadable(out, "the file cannot be opened");
	}
	if (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode) || (about.st_mode & 022) || about.st_uid != 0) {
		close(fd);
		return unreadable(out, "it must be a file that only root can write");
	}
	for (ssize_t got; size < sizeof(text); size += (size_t)got) {
		got = read(fd, text + size, sizeof(text) - size);
		if (got < 0) {
			close(fd);
			return unreadable(out, "the file cannot be read");
		}
		if (got == 0)
			break;
	}
	close(fd);
	return policy_parse(out, text, size);
}

static bool in_list(const char *list, const char *value, size_t length)
{
	for (;;) {
		size_t here = strcspn(list, ",");
		if (here == length && strncasecmp(list, value, length) == 0)
			return true;
		if (!list[here])
			return false;
		list += here + 1;
	}
}

static bool concerns_value(const char *list, const char *value)
{
	if (!list || !value)
		return true;
	while (*value) {
		size_t length = strcspn(value, ",");
		if (in_list(list, value, length))
			return true;
		value += length + (value[length] != '\0');
	}
	return false;
}

static bool concerns(const policy_rule *rule, const policy_place *place)
{
	return concerns_value(rule->partition, place->partition) && concerns_value(rule->account, place->account);
}

const policy_rule *policy_isolation(const policy *rules, const policy_place *place)
{
	for (size_t i = 0; i < rules->n_rules; i++)
		if (rules->rules[i].isolate && concerns(&rules->rules[i], place))
			return &rules->rules[i];
	return NULL;
}

/* Iterative, so that its cost is bounded by the product of the lengths: each kind of star goes back to one place. */
bool policy_glob(const char *pattern, const char *text)
{
	const char *one = NULL, *one_at = NULL, *two = NULL, *two_at = NULL;

	for (;;) {
		if (pattern[0] == '*' && pattern[1] == '*') {
			two = pattern += 2;
			two_at = text;
			one = NULL;
		} else if (*pattern == '*') {
			one = ++pattern;
			one_at = text;
		} else if (*pattern == *text) {
			if (!*text)
				return true;
			pattern++;
			text++;
		} else if (one && *one_at && *one_at != '/') {
			pattern = one;
			text = ++one_at;
		} else if (two && *two_at) {
			pattern = two;
			text = ++two_at;
			one = NULL;
		} else {
			return false;
		}
	}
}

static bool plain_path(const char *path)
{
	for (const char *at = path; *at; at += strcspn(at, "/")) {
		at++;
		size_t length = strcspn(at, "/");
		if ((length == 0 && *at) || (length == 1 && at[0] == '.') || (length == 2 && at[0] == '.' && at[1] == '.'))
			return false;
	}
	return true;
}

static const char *without_scheme(const char *image)
{
	size_t length = 0;

	if (isalpha((unsigned char)image[0]))
		while (isalnum((unsigned char)image[length]) || (image[length] && strchr("_+.-", image[length])))
			length++;
	return length && strncmp(image + length, "://", 3) == 0 ? image + length + 3 : image;
}

const char *policy_image_name(const char *image, char out[IMAGE_MAX + 1], const char **why)
{
	size_t length = strnlen(image, IMAGE_MAX + 1);
	const char *registry_end, *at;
	char *hash;

	*why = "it is no image name";
	if (length > IMAGE_MAX)
		return NULL;
	for (size_t i = 0; i < length; i++)
		if (iscntrl((unsigned char)image[i]))
			return NULL;
	image = without_scheme(image);
	if (*image == '/') {
		*why = "its path must have no '.', '..' or '//' in it";
		return plain_path(image) ? strcpy(out, image) : NULL;
	}
	*why = "its path must be given in full, from /";
	if (*image == '.')
		return NULL;
	registry_end = strchr(image, '#');
	at = strchr(image, '@');
	if (registry_end && at && at < registry_end && at < image + strcspn(image, "/"))
		image = at + 1;
	strcpy(out, image);
	hash = strchr(out, '#');
	if (hash)
		*hash = '/';
	return out;
}

const policy_rule *policy_image(const policy *rules, const policy_place *place, const char *image, const char **why)
{
	char name[IMAGE_MAX + 1];
	bool named = policy_image_name(image, name, why) != NULL;

	for (size_t i = 0; i < rules->n_rules; i++) {
		const policy_rule *rule = &rules->rules[i];
		bool allowed = false;

		if (rule->isolate || !concerns(rule, place))
			continue;
		if (!named)
			return rule;
		for (size_t k = 0; k < rule->n_patterns && !allowed; k++)
			allowed = policy_glob(rule->patterns[k], name);
		if (!allowed) {
			*why = "it is on none of the rule's patterns";
			return rule;
		}
	}
	return NULL;
}
