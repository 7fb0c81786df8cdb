/* The root directory of a step while it is put together: names below it, and what is shown there. In the holder. */
#ifndef SOVCTL_ROOTFS_H
#define SOVCTL_ROOTFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "image.h"

#define ROOTFS_OWN 4

typedef struct {
	const image_plan *plan;
	char *problem;
	size_t size;
	int status; /* with which the task ends if this fails */
	int root;
	bool owned; /* what is made in it belongs to the user */
	dev_t own[ROOTFS_OWN]; /* file systems that are the step's alone: the image with its layers, and the private ones */
	size_t n_own;
} entering;

/* False, with `problem` from errno. */
bool rootfs_failed(entering *work, const char *what, const char *on);

/* openat2 without magic links. */
int rootfs_open(int dir, const char *path, uint64_t flags, uint64_t resolve);

/* What is made in this file system is made for the step alone; whether it is. */
bool rootfs_add_own(entering *work, int fd);
bool rootfs_is_own(const entering *work, int fd);

/* The place for a mount in the image, made if need be. Links in the image lead nowhere but into the image; where a mount
 * of the host lies there, it is made with the rights of the user. */
int rootfs_target(entering *work, const char *path, bool directory);

/* Adds to what holds for the mount already, and takes nothing away. */
bool rootfs_write_protect(int fd, unsigned flags);

/* Shows what is open, or a path of the host (with root's eyes, or with the user's), at a place in the image. */
bool rootfs_bind_fd(entering *work, int source, const char *target, bool read_only);
bool rootfs_bind(entering *work, const char *source, const char *target, bool read_only, bool needed);
bool rootfs_bind_for_user(entering *work, const char *source, const char *target, bool read_only);

/* How a task ends that names a path which cannot be opened: a wrong name is its own fault, a broken server is not. */
int rootfs_open_status(int cause);

/* With the user's rights: nothing is shown to a user that this user could not walk to. */
int rootfs_open_as_user(entering *work, const char *path);

/* Files that this process makes belong to the user until `rootfs_as_root`; other rights stay. */
void rootfs_as_owner(const image_plan *plan);
void rootfs_as_root(void);

#endif
