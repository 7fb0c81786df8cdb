/* The site's policy file on a node: what plugins/lua/sovctl_policy.lua reads, judged the same way. Pure but for
 * reading one file. The grammar is in docs/configuration.md. */
#ifndef SOVCTL_POLICY_H
#define SOVCTL_POLICY_H

#include <stdbool.h>
#include <stddef.h>

#define POLICY_MAX_BYTES (64 * 1024)
#define POLICY_MAX_RULES 256
#define POLICY_MAX_LINE 4096
#define POLICY_MAX_WORDS 64
#define POLICY_MAX_NAME 64
#define IMAGE_MAX 4096

typedef struct {
	bool isolate; /* else it is about images */
	const char *name;
	const char *partition; /* list with commas; NULL: every one */
	const char *account;
	const char *patterns[POLICY_MAX_WORDS];
	size_t n_patterns;
} policy_rule;

typedef struct {
	char text[POLICY_MAX_BYTES + 1]; /* cut into the words that the rules point to */
	policy_rule rules[POLICY_MAX_RULES];
	size_t n_rules;
	bool refuse_when_broken;
	char problem[160]; /* empty: the file is whole */
} policy;

/* Where a job runs. NULL: not known; then every rule with such a condition concerns it. */
typedef struct {
	const char *partition;
	const char *account;
} policy_place;

/* Parse `size` bytes. False: `problem` says why and there are no rules. */
bool policy_parse(policy *out, const char *text, size_t size);

/* Read and parse a file that only root may have written. A missing file has no rules and is fine. */
bool policy_read(policy *out, const char *path);

/* The rule that wants this job isolated, or NULL. */
const policy_rule *policy_isolation(const policy *rules, const policy_place *place);

/* The rule that forbids this image, or NULL; `why` tells what is wrong. */
const policy_rule *policy_image(const policy *rules, const policy_place *place, const char *image, const char **why);

/* The one spelling an image is compared in. NULL and `why` when it has none. */
const char *policy_image_name(const char *image, char out[IMAGE_MAX + 1], const char **why);

/* `*` is anything but '/', `**` anything. */
bool policy_glob(const char *pattern, const char *text);

#endif
