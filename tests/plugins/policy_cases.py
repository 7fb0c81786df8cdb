"""What readers in different languages must agree on: the policy file, and what a clean environment keeps."""

from __future__ import annotations

BROKEN = [
    ("isolate\n", "line 1"),
    ("images x partition=gpu\n", "line 1"),
    ("\nisolat x\n", "line 2"),
    ("isolate a\nisolate a\n", "line 2"),
    ("isolate a partition=\n", "line 1"),
    ("isolate a partition=x,,y\n", "line 1"),
    ("isolate a partition=x,\n", "line 1"),
    ("isolate a partition=x partition=y\n", "line 1"),
    ("isolate a qos=x\n", "line 1"),
    ("isolate " + "n" * 65 + "\n", "line 1"),
    ("isolate a/b\n", "line 1"),
    ("on-broken maybe\n", "line 1"),
    ("x" * 5000, "line 1"),
    ("images a " + "p " * 70, "line 1"),
    ("a\0b", "NUL"),
    ("isolate a partition=" + ",".join(["p"] * 65), "line 1"),
    ("\n".join(f"isolate r{number}" for number in range(257)), "line 257"),
]
"""Text of a file that is broken, and what its problem mentions."""

RULES = """
# what this site wants
on-broken refuse
images  site-images   partition=gpu registry.site/ml/** /shared/images/*.sqsh
isolate clean-gpu     partition=gpu
isolate guests-clean  account=guests,visitors
"""

IMAGES = [
    ("docker://registry.site#ml/torch:26", True),
    ("registry.site/ml/a/b@sha256:00", True),
    ("me@registry.site#ml/torch", True),
    ("registry.site#ml/torch", True),
    ("registry.site.evil/ml/torch", False),
    ("docker://evil/registry.site/ml/torch", False),
    ("evil/x@registry.site#ml/torch", False),
    ("/shared/images/a.sqsh", True),
    ("/shared/images/sub/a.sqsh", False),
    ("/shared/images/../../tmp/a.sqsh", False),
    ("/shared/images/./a.sqsh", False),
    ("/shared/images//a.sqsh", False),
    ("./a.sqsh", False),
    ("../a.sqsh", False),
    ("/shared/images/a.sqsh\n", False),
    ("/shared/imagesXa.sqsh", False),
    ("/shared/images/a.sqshX", False),
    ("/" * 5000, False),
    ("a" * 5000, False),
    ("%s%n%p", False),
]
"""An image, and whether RULES let it run in partition gpu."""

ISOLATED = [
    ("gpu", "staff", "clean-gpu"),
    ("GPU", "staff", "clean-gpu"),
    ("main,gpu", "", "clean-gpu"),
    ("main", "guests", "guests-clean"),
    ("main", "Visitors", "guests-clean"),
    ("main", "staff", ""),
    ("gp", "guest", ""),
    ("main", "", ""),
]
"""Partition, account, and the rule that wants the job isolated."""

OPTIONS = [
    ("sov-isolate", True),
    ("sov-image", True),
    ("sov-private-network", True),
    ("sov-mount", False),
    ("sov-home", False),
    ("sov-clean-env", False),
    ("sov-writable", False),
    ("sov-env-name", False),
    ("sov-slurm-client", False),
]
"""Every option of the SPANK plugin, and whether it isolates a step."""

_KEPT = """
PATH HOME USER LOGNAME HOSTNAME TERM COLUMNS LINES LANG LC_ALL TZ
SLURM_JOB_ID SLURM_STEP_GPUS SLURMD_NODENAME SBATCH_ACCOUNT SOVCTL_RUN_DIR
PMI_RANK PMI2_FD PMIX_NAMESPACE OMPI_MCA_btl PRTE_MCA_x I_MPI_FABRICS MPI_LOCALRANKID MPICH_OFI_NIC_POLICY MPIR_CVAR_X
NCCL_DEBUG RCCL_MSCCL_ENABLE UCX_TLS FI_PROVIDER GLOO_SOCKET_IFNAME TORCH_NCCL_X PYTORCH_CUDA_ALLOC_CONF
CUDA_VISIBLE_DEVICES CUDA_DEVICE_MAX_CONNECTIONS NVIDIA_VISIBLE_DEVICES NVIDIA_DRIVER_CAPABILITIES
ROCR_VISIBLE_DEVICES HIP_VISIBLE_DEVICES ZE_AFFINITY_MASK GPU_DEVICE_ORDINAL
OMP_NUM_THREADS OMP_PROC_BIND MKL_NUM_THREADS MASTER_ADDR MASTER_PORT WORLD_SIZE RANK LOCAL_RANK NODE_RANK
"""
_DROPPED = """
SLURM_JWT SSH_AUTH_SOCK SOVCTL_TOKEN_FILE SLURM_X_TOKEN_FILE KRB5CCNAME AWS_SECRET_ACCESS_KEY
LD_PRELOAD LD_LIBRARY_PATH PYTHONPATH BASH_ENV BASH_FUNC_ls%% TMPDIR XDG_RUNTIME_DIR SHELL PWD
EVIL PATHX XPATH RANKS SLURM MPIX NCCL slurm_job_id
"""
VARIABLES = [
    *[(name, True) for name in _KEPT.split()],
    *[(name, False) for name in (*_DROPPED.split(), "a b", "S" * 300)],
]
"""Name of a variable, and whether it passes into a clean environment on the host's own root."""
