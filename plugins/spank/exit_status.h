/* With what a task that may not run ends; the same numbers as everywhere in sovctl (sovctl/errors.py). */
#ifndef SOVCTL_EXIT_STATUS_H
#define SOVCTL_EXIT_STATUS_H

#define FAILED 1
#define USAGE 2	  /* what was asked for cannot be: a wrong value, a file that is not there */
#define REFUSED 3 /* the site does not allow it, or somebody else's */
#define TRY_LATER 75
#define NOT_RUNNABLE 126 /* the program of the task, as a shell has it */
#define NOT_FOUND 127

#endif
