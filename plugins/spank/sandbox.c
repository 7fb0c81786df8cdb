#define _GNU_SOURCE
#include "sandbox.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "devices.h"
#include "exit_status.h"

#define SETUP_MS 30000
#define BY_PIDFD ((idtype_t)3) /* P_PIDFD, which glibc names from 2.36 on */
static const char READY[] = "ready", READY_WITHOUT[] = "ready without";

/* --- in the holder: no Slurm function, no memory from the heap before its locks are known to be free ------------- */

typedef struct {
	const sandbox_plan *plan;
	int keep[SETTINGS_MAX_PATHS];
	char problem[SANDBOX_PROBLEM];
	int status; /* with which the task ends if this fails */
	bool unknown_devices;
} building;

static bool failed(building *work, const char *what, const char *on)
{
	snprintf(work->problem, sizeof(work->problem), "cannot %s %.120s: %s", what, on, strerror(errno));
	return false;
}

/* Mounts over an open directory or file, so that no name is looked up twice. */
static bool mount_at(building *work, const char *source, int target, const char *type, unsigned long flags,
		     const char *options, const char *name)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", target);
	return mount(source, path, type, flags, options) == 0 || failed(work, "mount", name);
}

/* A private tmpfs there. */
static bool cover_fd(void *with, int target, const char *name)
{
	building *work = with;
	char options[64];

	snprintf(options, sizeof(options), "mode=1777,size=%s", work->plan->site->tmp_size);
	return mount_at(work, "sovctl", target, "tmpfs", MS_NOSUID | MS_NODEV, options, name);
}

/* A private tmpfs over a directory, or over what a link of the administrator's leads to (/var/tmp -> /scratch/tmp). */
static bool cover(building *work, const char *path)
{
	int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	bool done;

	if (fd < 0)
		return errno == ENOENT || failed(work, "open", path);
	done = cover_fd(work, fd, path);
	close(fd);
	return done;
}

typedef struct {
	building *work;
	int nothing; /* an empty file that nobody can open */
} covering;

static bool cover_device(void *with, int file, const char *name)
{
	const covering *it = with;
	char source[40];

	snprintf(source, sizeof(source), "/proc/self/fd/%d", it->nothing);
	return mount_at(it->work, source, file, NULL, MS_BIND, NULL, name);
}

static bool hide_devices_in(building *work, int dir, const char *prefix, int nothing)
{
	static devices all;
	covering it = { .work = work, .nothing = nothing };

	if (!devices_find(&all, dir, prefix, work->plan->site->capabilities))
		return failed(work, "list the device files of", work->plan->site->gpus);
	work->unknown_devices = !devices_decide(&all, work->plan->gpus);
	*work->problem = '\0';
	if (devices_hide(&all, dir, prefix, cover_device, &it))
		return true;
	return *work->problem ? false : failed(work, "list the device files of", work->plan->site->gpus);
}

/* Device files of GPUs that are not the job's become empty files that nobody can open. The bind is locked: the user
 * cannot take it away, not even in a user namespace. */
static bool hide_gpus(building *work)
{
	char path[SETTINGS_MAX_PATH];
	char *slash;
	int dir, nothing;
	bool done;

	snprintf(path, sizeof(path), "%s", work->plan->site->gpus);
	slash = strrchr(path, '/');
	*slash = '\0';
	dir = open(*path ? path : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return errno == ENOENT || failed(work, "open", path);
	if (!cover(work, "/tmp"))
		return false;
	nothing = open("/tmp/not-yours", O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0);
	if (nothing < 0)
		return failed(work, "make", "an empty file");
	done = hide_devices_in(work, dir, slash + 1, nothing);
	close(nothing);
	close(dir);
	return done;
}

static bool make_parents(building *work, const char *path)
{
	char part[SETTINGS_MAX_PATH];

	for (size_t i = 1; path[i]; i++)
		if (path[i] == '/') {
			memcpy(part, path, i);
			part[i] = '\0';
			if (mkdir(part, 0755) != 0 && errno != EEXIST)
				return failed(work, "make", part);
		}
	return true;
}

/* What the administrator wants seen although it lies under a covered directory. */
static bool put_back(building *work, size_t index)
{
	const char *path = work->plan->site->keep[index];
	char source[40];
	struct stat about, now;
	int fd;
	bool done;

	if (work->keep[index] < 0)
		return true;
	if (fstat(work->keep[index], &about) != 0)
		return failed(work, "look at", path);
	if (stat(path, &now) == 0 && now.st_dev == about.st_dev && now.st_ino == about.st_ino)
		return true; /* it was never covered */
	if (!make_parents(work, path))
		return false;
	if (S_ISDIR(about.st_mode))
		done = mkdir(path, 0755) == 0 || errno == EEXIST;
	else
		done = mknod(path, S_IFREG | 0600, 0) == 0 || errno == EEXIST;
	fd = done ? open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC) : -1;
	if (fd < 0)
		return failed(work, "make", path);
	snprintf(source, sizeof(source), "/proc/self/fd/%d", work->keep[index]);
	done = mount_at(work, source, fd, NULL, MS_BIND | MS_REC, NULL, path);
	close(fd);
	return done;
}

/* A network of its own has a loopback, which is down at first. Abstract sockets belong to the network too. */
static bool own_network(building *work)
{
	struct ifreq loopback = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd;
	bool done;

	if (!work->plan->private_network)
		return true;
	if (unshare(CLONE_NEWNET) != 0)
		return failed(work, "make", "a private network");
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	done = fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &loopback) == 0;
	if (fd >= 0)
		close(fd);
	return done || failed(work, "start", "the loopback of the private network");
}

static bool build(building *work)
{
	const settings *site = work->plan->site;

	if (!own_network(work))
		return false;
	if (unshare(CLONE_NEWNS | CLONE_NEWIPC) != 0)
		return failed(work, "make", "private namespaces");
	/* What the host mounts later still shows (autofs); nothing goes the other way. */
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) != 0)
		return failed(work, "separate", "the mounts");
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0)
		return failed(work, "mount", "/proc");
	for (size_t i = 0; i < site->n_keep; i++)
		work->keep[i] = open(site->keep[i], O_PATH | O_CLOEXEC);
	if (!hide_gpus(work) || !cover(work, "/tmp") || !cover(work, "/var/tmp") || !cover(work, "/dev/shm"))
		return false;
	if (mount("mqueue", "/dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0 && errno != ENOENT &&
	    errno != ENODEV)
		return failed(work, "mount", "/dev/mqueue");
	for (size_t i = 0; i < site->n_keep; i++) {
		if (!put_back(work, i))
			return false;
		if (work->keep[i] >= 0)
			close(work->keep[i]);
	}
	return !work->plan->image ||
	       image_enter(work->plan->image, site, cover_fd, work, work->problem, sizeof(work->problem),
			   &work->status);
}

/* Whatever slurmstepd has open must not live on here: srun would wait for its pipes to close. */
static void close_all_but(const int keep[], size_t count)
{
	for (int from = 0;;) {
		int next = -1;

		for (size_t i = 0; i < count; i++)
			if (keep[i] >= from && (next < 0 || keep[i] < next))
				next = keep[i];
		if (next < 0) {
			syscall(SYS_close_range, (unsigned)from, ~0U, 0U);
			return;
		}
		if (next > from)
			syscall(SYS_close_range, (unsigned)from, (unsigned)next - 1, 0U);
		from = next + 1;
	}
}

/* Sleeps until the process that started it is gone; the kernel reaps the orphans of the step, as nobody asks for
 * them. A training node must not be woken for this. */
static _Noreturn void hold(int lifeline)
{
	char byte;

	while (read(lifeline, &byte, 1) < 0 && errno == EINTR)
		;
	_exit(0);
}

static _Noreturn void holder(const sandbox_plan *plan, int report, int lifeline)
{
	static building work = { .status = FAILED };
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	signal(SIGCHLD, SIG_IGN);
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	prctl(PR_SET_NAME, "sovctl-holder", 0, 0, 0);
	setsid();
	/* The locks of image and layer live as long as the step. */
	int keep[] = { report, lifeline, plan->image ? plan->image->file : -1,
		       plan->image && plan->image->kept ? plan->image->kept->dir : -1 };
	close_all_but(keep, 4);
	work.plan = plan;
	umask(0);
	if (chdir("/") != 0 || !build(&work)) {
		char said[SANDBOX_PROBLEM + 1];
		int length = snprintf(said, sizeof(said), "%c%s", work.status, work.problem);
		ssize_t ignored = write(report, said, (size_t)length);

		(void)ignored;
		_exit(FAILED);
	}
	const char *said = work.unknown_devices ? READY_WITHOUT : READY;

	if (write(report, said, strlen(said)) < 0)
		_exit(1);
	close(report);
	/* Opening files as the user took it back: the kernel forgets it when the effective user changes. */
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	hold(lifeline);
}

/* --- in slurmstepd ---------------------------------------------------------------------------------------------- */

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* What the holder says: that it is ready, with the job's GPUs or without, or a byte with the exit status and what
 * failed. */
static int await_ready(int report, char problem[SANDBOX_PROBLEM], bool *unknown_devices)
{
	struct pollfd line = { .fd = report, .events = POLLIN };
	ssize_t got = -1;
	int ready;

	do
		ready = poll(&line, 1, SETUP_MS);
	while (ready < 0 && errno == EINTR);
	if (ready > 0)
		got = read(report, problem, SANDBOX_PROBLEM - 1);
	problem[got > 0 ? got : 0] = '\0';
	*unknown_devices = strcmp(problem, READY_WITHOUT) == 0;
	if (*unknown_devices || strcmp(problem, READY) == 0)
		return 0;
	if (got > 1) {
		int status = problem[0];

		memmove(problem, problem + 1, (size_t)got);
		return status;
	}
	snprintf(problem, SANDBOX_PROBLEM, ready == 0 ? "setting up takes too long" : "setting up ended early");
	return FAILED;
}

static int open_ns(pid_t pid, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)pid, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* Forks pid 1 of a new process namespace. */
static bool fork_holder(sandbox *box, const sandbox_plan *plan, int report, int lifeline, pid_t *pid)
{
	box->own_processes = open("/proc/thread-self/ns/pid", O_RDONLY | O_CLOEXEC);
	if (box->own_processes < 0 || unshare(CLONE_NEWPID) != 0) {
		close_fd(&box->own_processes);
		return false;
	}
	*pid = fork();
	if (*pid == 0)
		holder(plan, report, lifeline);
	if (*pid > 0)
		box->holder = (int)syscall(SYS_pidfd_open, *pid, 0);
	return box->holder >= 0;
}

int sandbox_start(sandbox *box, const sandbox_plan *plan, char problem[SANDBOX_PROBLEM])
{
	static const sandbox none = SANDBOX_NONE;
	int report[2] = { -1, -1 }, lifeline[2] = { -1, -1 };
	int status = FAILED;
	pid_t pid = -1;

	*box = none;
	if (pipe2(report, O_CLOEXEC) != 0 || pipe2(lifeline, O_CLOEXEC) != 0 ||
	    !fork_holder(box, plan, report[1], lifeline[0], &pid)) {
		snprintf(problem, SANDBOX_PROBLEM, "cannot make private namespaces: %s", strerror(errno));
	} else {
		close_fd(&report[1]);
		status = await_ready(report[0], problem, &box->unknown_devices);
	}
	if (status == 0) {
		box->lifeline = lifeline[1];
		lifeline[1] = -1;
		box->mounts = open_ns(pid, "mnt");
		box->ipc = open_ns(pid, "ipc");
		box->network = plan->private_network ? open_ns(pid, "net") : -1;
		if (box->mounts < 0 || box->ipc < 0 || (plan->private_network && box->network < 0)) {
			snprintf(problem, SANDBOX_PROBLEM, "cannot join the private namespaces: %s", strerror(errno));
			status = FAILED;
		}
	}
	close_fd(&report[0]);
	close_fd(&report[1]);
	close_fd(&lifeline[0]);
	close_fd(&lifeline[1]);
	if (status)
		sandbox_end(box);
	return status;
}

void sandbox_return(sandbox *box)
{
	if (box->own_processes >= 0)
		setns(box->own_processes, CLONE_NEWPID);
	close_fd(&box->own_processes);
}

const char *sandbox_join(const sandbox *box)
{
	if (box->network >= 0 && setns(box->network, CLONE_NEWNET) != 0)
		return "cannot join the private network";
	if (setns(box->ipc, CLONE_NEWIPC) != 0 || setns(box->mounts, CLONE_NEWNS) != 0)
		return "cannot join the private namespaces";
	return NULL;
}

/* A holder that hangs in the kernel, on a dead file server perhaps, must not hang slurmstepd too: Slurm would drain the
 * node for it. Slurm itself may have reaped it already. */
static void reap(int holder)
{
	const struct timespec pause = { .tv_nsec = 10 * 1000 * 1000 };
	siginfo_t about;

	for (int tries = 0; tries < 200; tries++) {
		about.si_pid = 0;
		if (waitid(BY_PIDFD, (id_t)holder, &about, WEXITED | WNOHANG) != 0 ? errno != EINTR : about.si_pid != 0)
			return;
		nanosleep(&pause, NULL);
	}
}

void sandbox_end(sandbox *box)
{
	sandbox_return(box);
	if (box->holder >= 0) {
		syscall(SYS_pidfd_send_signal, box->holder, SIGKILL, NULL, 0);
		reap(box->holder);
	}
	close_fd(&box->holder);
	close_fd(&box->lifeline);
	close_fd(&box->mounts);
	close_fd(&box->ipc);
	close_fd(&box->network);
}
