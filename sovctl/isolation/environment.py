"""What of the job's environment a task in a container sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

ALLOWED = (
    *("SLURM_*", "SLURMD_NODENAME", "SBATCH_*", "SOVCTL_*", "PMI_*", "PMI2_*", "PMIX_*", "OMPI_*", "PRTE_*", "I_MPI_*"),
    *("MPI_*", "MPICH_*", "MPIR_*"),
    *("NCCL_*", "RCCL_*", "CUDA_*", "NVIDIA_*", "ROCR_*", "HIP_*", "ZE_*", "UCX_*", "FI_*", "GLOO_*", "TORCH_*"),
    *("PYTORCH_*", "OMP_*", "MKL_*", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK"),
    *("GPU_DEVICE_ORDINAL", "TERM", "LANG", "LC_*", "TZ", "COLUMNS", "LINES", "USER", "LOGNAME", "HOSTNAME"),
)
"""What passes with a clean environment: the scheduler, the launchers, the communication libraries, the terminal.

The SPANK plugin has this list and the two below as well (plugins/spank/environment.c).
"""

OF_THE_HOST = (
    *("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "LD_AUDIT", "LD_CONFIG", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"),
    *("CONDA_*", "PERL5LIB", "MANPATH", "MODULEPATH", "LOADEDMODULES", "_LMFILES_", "LMOD_*", "BASH_ENV", "ENV"),
    *("BASH_FUNC_*", "TMPDIR", "TMP", "TEMP", "XDG_*", "DBUS_*", "DISPLAY", "XAUTHORITY", "SHELL", "HOME", "PWD"),
    *("OLDPWD", "MAIL", "_", "ENROOT_*", "PYXIS_*", "APPTAINER_*", "SINGULARITY_*"),
    *("PYTHONUSERBASE", "PYTHONSTARTUP", "MODULESHOME", "MODULES_*", "__LMOD_*", "__MODULES_*", "_ModuleTable*"),
    *("EBROOT*", "EBDEVEL*", "CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_VERSION", "ROCM_HOME", "ROCM_PATH"),
    *("HIP_PATH", "MKLROOT", "MPI_HOME", "MPI_ROOT", "I_MPI_ROOT", "OPAL_PREFIX", "NCCL_HOME", "NCCL_ROOT"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"),
    *("LOCPATH", "GCONV_PATH", "NLSPATH", "TZDIR", "TERMINFO", "TERMINFO_DIRS", "LD_RUN_PATH", "LIBRARY_PATH"),
    *("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "PKG_CONFIG_PATH", "CMAKE_PREFIX_PATH", "INFOPATH"),
)
"""What names places or programs of the host, and is wrong in another root file system, also where the list above has it
(CUDA_HOME is the host's, CUDA_VISIBLE_DEVICES the job's)."""

SECRETS = ("SLURM_JWT", "SSH_*", "KRB5CCNAME", "GPG_*", "SUDO_*", "*_TOKEN_FILE")
"""What opens doors outside the container; never inside unless a pattern of the site names it exactly."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def inner_environment(
    job: Mapping[str, str],
    image: Sequence[tuple[str, str]],
    *,
    clean: bool,
    home: str,
    extra_allowed: Sequence[str] = (),
    host_root: bool = False,
) -> dict[str, str]:
    """The environment inside: the image's, over it what passes of the job's.

    `clean`: only the allow-list passes. `host_root`: the root file system is the host's own, so its PATH and what names
    its places are right; else that stays outside. `extra_allowed`: patterns of the site, which pass all the same.
    """
    inner = {"PATH": job.get("PATH", _PATH) if host_root else _PATH, **dict(image)}
    for name, value in job.items():
        if _passes(name, clean=clean, extra_allowed=extra_allowed, host_root=host_root):
            inner[name] = value
    return {**inner, "HOME": home}


def _passes(name: str, *, clean: bool, extra_allowed: Sequence[str], host_root: bool) -> bool:
    if _matches(name, extra_allowed):
        return True
    if _matches(name, SECRETS) or (not host_root and _matches(name, OF_THE_HOST)):
        return False
    return not clean or _matches(name, ALLOWED)


def outside_allow_list(environment: Mapping[str, str], extra_allowed: Sequence[str] = ()) -> list[str]:
    """Names that a clean environment would not hold, for the proof by measurement."""
    own = ("PATH", "HOME", "PWD", "SHLVL", "_", *extra_allowed)
    return sorted(name for name in environment if not _matches(name, (*ALLOWED, *own)) or _matches(name, SECRETS))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
