/* Which GPUs, parts of split ones (MIG) and IMEX channels of a node are a job's, and hiding the others.
 * sovctl/isolation/devices.py decides alike. */
#ifndef SOVCTL_DEVICES_H
#define SOVCTL_DEVICES_H

#include <stdbool.h>
#include <stddef.h>

#define DEVICES_GPUS 64
#define DEVICES_MIGS 512

typedef struct {
	unsigned number; /* of its device file */
	bool openable;
	bool confined; /* the cgroup of the job keeps it away */
	bool own;
} device_gpu;

typedef struct {
	unsigned gpu;	 /* the one that it is a part of */
	unsigned gi, ci; /* minor numbers of what opens its GPU instance, and itself */
	bool openable, confined, own;
} device_mig;

typedef struct {
	device_gpu gpus[DEVICES_GPUS];
	size_t n_gpus;
	device_mig migs[DEVICES_MIGS];
	size_t n_migs;
} devices;

/* What is there: GPUs are `prefix` and a number in `dir`, what opens their parts is in <prefix>-caps, and the driver
 * tells of the parts below `capabilities`. False: more than there is room for, or it cannot be read (errno). */
bool devices_find(devices *out, int dir, const char *prefix, const char *capabilities);

/* Fills in `own`. `listed`: what Slurm calls the job's GPUs. False: it cannot be told, and nothing is the job's. */
bool devices_decide(devices *all, const char *listed);

/* Calls `hide(with, open file, name)` for every device file that is not the job's; false as soon as that is false, or
 * with errno where a directory cannot be read. */
bool devices_hide(const devices *all, int dir, const char *prefix, bool (*hide)(void *with, int file, const char *name), void *with);

#endif
