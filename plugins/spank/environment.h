/* Which variables a clean environment keeps. The same lists as in sovctl/isolation/environment.py. Pure. */
#ifndef SOVCTL_ENVIRONMENT_H
#define SOVCTL_ENVIRONMENT_H

#include <stdbool.h>

/* Patterns, with NULL behind the last. */
extern const char *const environment_allowed[];
extern const char *const environment_secrets[];

/* Whether a variable stays, by its entry "NAME=value" or its name. `more`: the site's patterns, with commas. */
bool environment_keeps(const char *entry, const char *more);

#endif
