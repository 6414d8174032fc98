"""Whether JAX starts here, on which devices, and whether they add up rightly when they work together."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

from vitmed.scale.findings import Finding

START = 120  # seconds that JAX may take to find its devices
ROUNDS = 5
NVIDIA, TPU = Path("/proc/driver/nvidia/version"), Path("/dev/accel0")


def starts(timeout: float = START) -> list[Finding]:
    """Starts JAX in a process of its own: a wrong flag or a driver that does not answer would end or hang this one."""
    program = "import jax; d = jax.local_devices(); print(len(d), d[0].platform, d[0].device_kind, sep='|')"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return [
            Finding(
                "devices",
                "breaks",
                f"JAX found no devices within {timeout:.0f} s",
                "end other processes that hold the accelerator (nvidia-smi; lsof /dev/accel*), or restart the node",
            )
        ]
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [
            f"exit code {done.returncode}"
        ]
        fatal = [line for line in lines if "Unknown flag" in line or "Error" in line] or lines
        todo = "correct XLA_FLAGS and JAX_PLATFORMS, and see that JAX, driver and accelerator fit one another"
        return [Finding("devices", "breaks", f"JAX does not start: {fatal[-1].strip()}", todo)]
    count, platform, kind = done.stdout.strip().splitlines()[-1].split("|")
    return [Finding("devices", "fine", f"{count} {platform} device(s): {kind}"), *_unused(platform)]


def _unused(platform: str, nvidia: Path = NVIDIA, tpu: Path = TPU) -> list[Finding]:
    """An accelerator that is in the machine and that JAX does not use."""
    if platform != "cpu":
        return []
    found = []
    if nvidia.exists() or shutil.which("nvidia-smi"):
        todo = "pip install 'vitmed[gpu]', and leave JAX_PLATFORMS and CUDA_VISIBLE_DEVICES to what the scheduler sets"
        found.append(Finding("devices", "note", "there is an NVIDIA driver, but JAX uses the CPU", todo))
    if tpu.exists():
        found.append(
            Finding("devices", "note", "there is a TPU, but JAX uses the CPU", "pip install 'vitmed[tpu]'")
        )
    return found


def collectives(size: int | None = None) -> list[Finding]:
    """Sums, gathers and scatters over all devices of all processes: right, and how fast.

    Args:
        size: float32 values a device; by default 16 Mi on an accelerator and 1 Mi on a CPU.
    """
    import jax
    import numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    count = jax.device_count()
    if count == 1:
        return [Finding("collectives", "fine", "one device: nothing to be summed over")]
    size = size or (2**20 if jax.default_backend() == "cpu" else 2**24)
    size -= size % count
    mesh = jax.make_mesh((count,), ("all",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("all"))
    x = jax.make_array_from_callback(
        (count, size), rows, lambda at: np.full((1, size), at[0].indices(count)[0], np.float32)
    )

    def over(function):
        return jax.jit(
            jax.shard_map(function, mesh=mesh, in_specs=PartitionSpec("all"), out_specs=PartitionSpec("all"))
        )

    total = count * (count - 1) / 2
    tried = {
        "sum": (over(lambda a: jax.lax.psum(a, "all")), lambda y: (y == total).all()),
        "gather": (
            over(lambda a: jax.lax.all_gather(a[0, : size // count], "all").sum(axis=0)[None]),
            lambda y: (y == total).all(),
        ),
        "scatter": (
            over(lambda a: jax.lax.psum_scatter(a[0], "all", tiled=True)[None]),
            lambda y: (y == total).all(),
        ),
    }
    wrong, text = [], ""
    for name, (function, right) in tried.items():
        y = jax.block_until_ready(function(x))
        if not all(right(np.asarray(shard.data)) for shard in y.addressable_shards):
            wrong.append(name)
        if name == "sum":
            began = time.perf_counter()
            for _ in range(ROUNDS):
                y = function(x)
            jax.block_until_ready(y)
            seconds = (time.perf_counter() - began) / ROUNDS
            text = f"a sum of {4 * size / 2**20:.0f} MiB over {count} devices takes {seconds * 1e3:.1f} ms ({4 * size / seconds / 1e9:.2f} GB/s)"
    if wrong:
        todo = "update the driver and NCCL or libtpu; if it stays, drain the node: training would be silently wrong"
        return [
            Finding(
                "collectives",
                "breaks",
                f"{' and '.join(wrong)} over {count} devices gives wrong values",
                todo,
            )
        ]
    return [Finding("collectives", "fine", f"right, and {text}")]
