"""What the process was started in: the cluster's variables, and the limits that a container or a shell sets."""

import os
import re
import resource
from collections.abc import Mapping
from pathlib import Path

from vitmed.pool import bound
from vitmed.scale.findings import Finding

SEEN = re.compile(
    r"SLURM_(JOB|STEP|NTASKS|PROCID|LOCALID|NODELIST|NNODES|GPUS)|TPU_|CUDA_VISIBLE_DEVICES|ROCR_VISIBLE|JAX_|XLA_|NCCL_"
    r"|LIBTPU|KUBERNETES_SERVICE_HOST|JOB_COMPLETION_INDEX|OMP_NUM_THREADS|.*_proxy$",
    re.IGNORECASE,
)
FILES = 1024  # that a run may have open: shards of several datasets, checkpoints, sockets
SHARED = 2**30  # bytes of /dev/shm that NCCL's and a loader's processes want
CGROUP = Path("/sys/fs/cgroup")


def variables(environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """The variables that change how JAX starts, and those among them that will break it."""
    seen = {name: value for name, value in sorted(environment.items()) if SEEN.match(name)}
    shown = {name: re.sub(r"//[^/@]*@", "//...@", value) for name, value in seen.items()}  # no passwords
    found = [
        Finding(
            "variables",
            "fine",
            "; ".join(f"{name}={value}" for name, value in shown.items()) or "none of a cluster's is set",
        )
    ]
    if environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles"):
        found.append(
            Finding(
                "variables",
                "note",
                "CUDA_VISIBLE_DEVICES is set to nothing, so no GPU is seen",
                "unset it, or ask the scheduler for GPUs (sbatch --gpus-per-node)",
            )
        )
    several = int(environment.get("SLURM_NTASKS") or 1) > 1 or environment.get("JAX_COORDINATOR_ADDRESS")
    proxies = [
        name for name in seen if name.lower() in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
    ]
    if several and proxies and "*" not in _unproxied(environment):
        found.append(
            Finding(
                "variables",
                "note",
                f"{', '.join(proxies)} is set, and processes that look for one another would go through the proxy",
                "export no_proxy with the nodes' names, or unset the proxy for the job",
            )
        )
    if environment.get("SLURM_JOB_ID") and not environment.get("SLURM_PROCID"):
        found.append(
            Finding(
                "variables",
                "note",
                "this is a Slurm job, but not a step of it, so it runs as one process",
                "start it with srun, or by launch/slurm/submit.sh",
            )
        )
    return found


def _unproxied(environment: Mapping[str, str]) -> list[str]:
    return (environment.get("no_proxy") or environment.get("NO_PROXY") or "").split(",")


def limits(cgroup: Path = CGROUP, shared: Path = Path("/dev/shm")) -> list[Finding]:
    """Memory and cores that this process may use, open files, and shared memory."""
    found = [_memory(cgroup), _cores(cgroup)]
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files < FILES:
        found.append(
            Finding(
                "limits", "note", f"only {files} files may be open at a time", f"ulimit -n {FILES}, or more"
            )
        )
    if shared.is_dir():
        stat = os.statvfs(shared)
        size = stat.f_frsize * stat.f_blocks
        if size < SHARED:
            found.append(
                Finding(
                    "limits",
                    "note",
                    f"{shared} holds {_size(size)}: GPUs of one machine that talk by it run out",
                    "give the container more: --shm-size=8g, or an emptyDir of medium Memory at /dev/shm",
                )
            )
    return found


def memory(cgroup: Path = CGROUP) -> int:
    """Bytes of main memory that this process may use: the machine's, or what its container is allowed."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    allowed = [
        int(text)
        for name in ("memory.max", "memory/memory.limit_in_bytes")
        if (text := _text(cgroup / name)).isdigit()
    ]
    return min([physical, *allowed])


def _memory(cgroup: Path) -> Finding:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    allowed = memory(cgroup)
    text = f"{_size(physical)} of memory" + (
        f", of which the container may use {_size(allowed)}" if allowed < physical else ""
    )
    if allowed < 2 * 2**30:
        return Finding(
            "limits", "breaks", text, "give the job at least 4 GB (sbatch --mem, resources.limits)"
        )
    return Finding("limits", "fine", text)


def _cores(cgroup: Path) -> Finding:
    cores = bound()
    quota, _, period = _text(cgroup / "cpu.max").partition(" ")
    allowed = int(quota) / int(period) if quota.isdigit() and period.isdigit() else cores
    if allowed < cores:
        return Finding(
            "limits",
            "note",
            f"{cores} cores are seen but {allowed:.1f} may be used, so threads will wait for one another",
            "ask for whole cores (sbatch --cpus-per-task, or equal CPU requests and limits)",
        )
    return Finding("limits", "fine", f"{cores} cores")


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
