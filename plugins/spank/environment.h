/* Which variables a task keeps, and what its image adds. The same lists as in sovctl/isolation/environment.py. Pure. */
#ifndef SOVCTL_ENVIRONMENT_H
#define SOVCTL_ENVIRONMENT_H

#include <stdbool.h>

/* Patterns, with NULL behind the last. */
extern const char *const environment_allowed[];
extern const char *const environment_of_the_host[];
extern const char *const environment_secrets[];

/* Where a task runs, and what it keeps there. */
typedef enum {
	HOST_ROOT_CLEAN, /* what is allowed; the host's PATH is right, and what names its places */
	IMAGE_CLEAN,	 /* what is allowed, but for what belongs to the host */
	IMAGE_FREE,	 /* all but what belongs to the host */
} environment_place;

/* Whether a variable stays, by its entry "NAME=value" or its name. `more`: the site's patterns, with commas. */
bool environment_keeps(const char *entry, const char *more, environment_place place);

/* Takes the next NAME=VALUE out of the text of an image's /etc/environment, which it changes; false: there is none left.
 * As sovctl/model/image_environment.py reads it. */
bool environment_next(char **text, char **name, char **value);

#endif
