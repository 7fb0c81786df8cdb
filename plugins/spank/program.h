/* Why a program cannot start in an image: for the kernel, a program that is not there and one whose interpreter is not
 * are the same. Looks with the rights of the caller, a task's; bounded. */
#ifndef SOVCTL_PROGRAM_H
#define SOVCTL_PROGRAM_H

#include <stdbool.h>

#define PROGRAM_PROBLEM 320

/* 0 when nothing is known to be missing; else the exit status of the task, and `problem`. `path`: its PATH. `told`: how
 * the program is called in the sentence. */
int program_missing(const char *name, const char *path, const char *told, char problem[PROGRAM_PROBLEM]);

/* Whether these are the words of srun --multi-prog: a file of the host and its text, "0-3 program ...". */
bool program_is_list(int argc, char *const argv[]);

#endif
