#define _GNU_SOURCE
#include "program.h"

#include <ctype.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "exit_status.h"

#define START 4096 /* of a file; loaders are named in the first bytes */
#define LINE 256   /* what the kernel reads of a line that begins with #! */

typedef struct {
	char bytes[START];
	size_t size;
} beginning;

/* 1: read; 0: not there; -1: there, and nobody may look. */
static int look(beginning *out, const char *path)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	ssize_t got;

	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -1;
	got = read(fd, out->bytes, sizeof(out->bytes));
	close(fd);
	out->size = got > 0 ? (size_t)got : 0;
	return got >= 0 ? 1 : -1;
}

/* In each directory of PATH, as slurmstepd searches. */
static int find(beginning *out, const char *name, const char *path)
{
	char whole[PATH_MAX];
	int found = 0;

	if (*name == '/')
		return look(out, name);
	while (*path && found != 1) {
		size_t length = strcspn(path, ":");
		int written = snprintf(whole, sizeof(whole), "%.*s/%s", (int)length, path, name);
		int here = length && written < (int)sizeof(whole) ? look(out, whole) : -1;

		found = here ? here : found;
		path += length + (path[length] != '\0');
	}
	return found;
}

/* The word after #!. */
static bool of_script(char out[PATH_MAX], const beginning *file)
{
	size_t at = 2, end;

	if (file->size < 3 || file->bytes[0] != '#' || file->bytes[1] != '!')
		return false;
	while (at < file->size && (file->bytes[at] == ' ' || file->bytes[at] == '\t'))
		at++;
	for (end = at; end < file->size && end < LINE && !isspace((unsigned char)file->bytes[end]); end++)
		if (!file->bytes[end])
			return false;
	if (end == at || end == file->size || end >= LINE)
		return false;
	memcpy(out, file->bytes + at, end - at);
	out[end - at] = '\0';
	return true;
}

/* The loader of a program that is linked to libraries. */
static bool of_elf(char out[PATH_MAX], const beginning *file)
{
	Elf64_Ehdr head;
	Elf64_Phdr part;

	if (file->size < sizeof(head) || memcmp(file->bytes, ELFMAG, SELFMAG) != 0 || file->bytes[EI_CLASS] != ELFCLASS64)
		return false;
	memcpy(&head, file->bytes, sizeof(head));
	for (size_t i = 0; i < head.e_phnum && head.e_phentsize == sizeof(part); i++) {
		if (head.e_phoff > file->size || file->size - head.e_phoff < (i + 1) * sizeof(part))
			return false;
		memcpy(&part, file->bytes + head.e_phoff + i * sizeof(part), sizeof(part));
		if (part.p_type != PT_INTERP)
			continue;
		if (part.p_filesz < 2 || part.p_filesz > PATH_MAX || part.p_offset > file->size ||
		    file->size - part.p_offset < part.p_filesz || file->bytes[part.p_offset + part.p_filesz - 1])
			return false;
		memcpy(out, file->bytes + part.p_offset, part.p_filesz);
		return true;
	}
	return false;
}

/* What is not may be meant for a terminal. */
static bool printable(const char *text)
{
	while (*text && isprint((unsigned char)*text))
		text++;
	return !*text;
}

int program_missing(const char *name, const char *path, const char *told, char problem[PROGRAM_PROBLEM])
{
	static beginning file;
	char runs[PATH_MAX];
	int found;

	/* A name like a/b or ./a is looked for in the working directory too: Slurm's own words have to do. */
	if (!*name || (*name != '/' && strchr(name, '/')) || *name == '.' || !printable(name))
		return 0;
	found = find(&file, name, path);
	if (found == 0) {
		snprintf(problem, PROGRAM_PROBLEM, "there is no program %.200s in the image", told);
		return NOT_FOUND;
	}
	if (found < 0 || (!of_script(runs, &file) && !of_elf(runs, &file)) || !printable(runs) || access(runs, F_OK) == 0 || errno != ENOENT)
		return 0;
	snprintf(problem, PROGRAM_PROBLEM, "%.150s needs %.120s, which the image has not", told, runs);
	return NOT_RUNNABLE;
}

bool program_is_list(int argc, char *const argv[])
{
	const char *text = argc == 2 ? argv[1] : "";
	size_t ranks = strspn(text, "0123456789,-*");

	return strchr(text, '\n') || (ranks && isspace((unsigned char)text[ranks]));
}
