#define _GNU_SOURCE
#include "environment.h"

#include <fnmatch.h>
#include <stddef.h>
#include <string.h>

#define LONGEST 256 /* of a name; Slurm's own end far below, and what is longer is not kept */

const char *const environment_allowed[] = {
	"SLURM_*",     "SLURMD_NODENAME", "SBATCH_*", "SOVCTL_*",    "PMI_*",	    "PMI2_*",	   "PMIX_*",
	"OMPI_*",      "PRTE_*",	  "I_MPI_*",  "MPI_*",	     "MPICH_*",	    "MPIR_*",	   "NCCL_*",
	"RCCL_*",      "CUDA_*",	  "NVIDIA_*", "ROCR_*",	     "HIP_*",	    "ZE_*",	   "UCX_*",
	"FI_*",	       "GLOO_*",	  "TORCH_*",  "PYTORCH_*",   "OMP_*",	    "MKL_*",	   "MASTER_ADDR",
	"MASTER_PORT", "WORLD_SIZE",	  "RANK",     "LOCAL_RANK",  "NODE_RANK",   "GPU_DEVICE_ORDINAL",
	"TERM",	       "LANG",		  "LC_*",     "TZ",	     "COLUMNS",	    "LINES",	   "USER",
	"LOGNAME",     "HOSTNAME",	  NULL,
};

const char *const environment_of_the_host[] = {
	"PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "LD_AUDIT", "LD_CONFIG", "PYTHONPATH", "PYTHONHOME",
	"VIRTUAL_ENV", "CONDA_*", "PERL5LIB", "MANPATH", "MODULEPATH", "LOADEDMODULES", "_LMFILES_", "LMOD_*",
	"BASH_ENV", "ENV", "BASH_FUNC_*", "TMPDIR", "TMP", "TEMP", "XDG_*", "DBUS_*", "DISPLAY", "XAUTHORITY",
	"SHELL", "HOME", "PWD", "OLDPWD", "MAIL", "_", "ENROOT_*", "PYXIS_*", "APPTAINER_*", "SINGULARITY_*",
	"PYTHONUSERBASE", "PYTHONSTARTUP", "MODULESHOME", "MODULES_*", "__LMOD_*", "__MODULES_*", "_ModuleTable*",
	"EBROOT*", "EBDEVEL*", "CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_VERSION", "ROCM_HOME", "ROCM_PATH",
	"HIP_PATH", "MKLROOT", "MPI_HOME", "MPI_ROOT", "I_MPI_ROOT", "OPAL_PREFIX", "NCCL_HOME", "NCCL_ROOT",
	"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "LOCPATH",
	"GCONV_PATH", "NLSPATH", "TZDIR", "TERMINFO", "TERMINFO_DIRS", "LD_RUN_PATH", "LIBRARY_PATH", "CPATH",
	"C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "PKG_CONFIG_PATH", "CMAKE_PREFIX_PATH", "INFOPATH", NULL,
};

const char *const environment_secrets[] = { "SLURM_JWT", "SSH_*", "KRB5CCNAME", "GPG_*", "SUDO_*", "*_TOKEN_FILE", NULL };

static bool matches(const char *const patterns[], const char *name)
{
	for (size_t i = 0; patterns[i]; i++)
		if (fnmatch(patterns[i], name, 0) == 0)
			return true;
	return false;
}

static bool site_allows(const char *list, const char *name)
{
	char pattern[LONGEST];

	while (*list) {
		size_t length = strcspn(list, ",");

		if (length < sizeof(pattern)) {
			memcpy(pattern, list, length);
			pattern[length] = '\0';
			if (fnmatch(pattern, name, 0) == 0)
				return true;
		}
		list += length + (list[length] != '\0');
	}
	return false;
}

/* The built-in runtime sets these two itself. */
static bool own(const char *name, environment_place place)
{
	return strcmp(name, "HOME") == 0 || (place == HOST_ROOT_CLEAN && strcmp(name, "PATH") == 0);
}

bool environment_keeps(const char *entry, const char *more, environment_place place)
{
	size_t length = strcspn(entry, "=");
	char name[LONGEST];

	if (length == 0 || length >= sizeof(name))
		return false;
	memcpy(name, entry, length);
	name[length] = '\0';
	/* What the site names goes before the secrets, as it does in the built-in runtime. */
	if (site_allows(more, name) || own(name, place))
		return true;
	if (matches(environment_secrets, name))
		return false;
	if (place != HOST_ROOT_CLEAN && matches(environment_of_the_host, name))
		return false;
	return place == IMAGE_FREE || matches(environment_allowed, name);
}

static char *unquoted(char *value)
{
	size_t length = strlen(value);

	if (length < 2 || value[0] != value[length - 1] || !strchr("'\"", value[0]))
		return value;
	value[length - 1] = '\0';
	return value + 1;
}

bool environment_next(char **text, char **name, char **value)
{
	while (**text) {
		char *line = *text + strspn(*text, " \t"), *end = *text + strcspn(*text, "\n");
		char *equals;

		*text = end + (*end != '\0');
		*end = '\0';
		if (strncmp(line, "export ", 7) == 0)
			line += 7;
		equals = strchr(line, '=');
		if (!equals || equals == line)
			continue;
		*equals = '\0';
		if (strpbrk(line, " \t#'\""))
			continue;
		*name = line;
		*value = unquoted(equals + 1);
		return true;
	}
	return false;
}
