/* The private namespaces of one step on one node. A small process, pid 1 of a new process namespace, sets them up and
 * holds them; the step's ranks are born into its process namespace and join the others. When it dies, by whatever
 * hand, the kernel ends every process in there, and with the last one the mounts are gone. Nothing is left on disk. */
#ifndef SOVCTL_SANDBOX_H
#define SOVCTL_SANDBOX_H

#include <stdbool.h>
#include <sys/types.h>

#include "image.h"
#include "settings.h"

#define SANDBOX_PROBLEM 256

typedef struct {
	const settings *site;
	const char *gpus;	 /* numbers that stay visible */
	const image_plan *image; /* NULL: the host's own root */
	bool private_network;
} sandbox_plan;

typedef struct {
	int holder;	   /* a pidfd, so that nobody else who got its number is ever killed */
	int lifeline;	   /* closed when this process ends: the holder's second way to notice */
	int own_processes; /* the process namespace to go back to; -1: there already */
	int mounts, ipc;
	int network; /* -1: the host's */
	bool unknown_devices; /* which parts of GPUs are the job's could not be told: it has none */
} sandbox;

#define SANDBOX_NONE { .holder = -1, .lifeline = -1, .own_processes = -1, .mounts = -1, .ipc = -1, .network = -1 }

/* As root. 0: children of this thread are born inside, until sandbox_return. Else the exit status of the task: `problem`
 * says why and nothing is left behind. */
int sandbox_start(sandbox *box, const sandbox_plan *plan, char problem[SANDBOX_PROBLEM]);

/* Children of this thread are born outside again. Threads can be started again too. */
void sandbox_return(sandbox *box);

/* In a child born inside, as root: join the mounts and IPC objects. NULL or what failed. */
const char *sandbox_join(const sandbox *box);

/* Ends everything in it. */
void sandbox_end(sandbox *box);

#endif
