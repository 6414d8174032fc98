"""The flags by which a GPU gives the same bits every time; a CPU and a TPU do without.

Left to itself XLA adds up with atomic operations in some kernels, in whatever order threads come by, and picks among
kernels the one that was the fastest when it tried. NCCL's sums inside a switch (NVLS) have no fixed order either.
"""

import os
from collections.abc import MutableMapping

FLAG = "--xla_gpu_deterministic_ops"
NCCL = "NCCL_ALGO", "^NVLS,NVLSTree"


def argument(parser) -> None:
    """The option of a verb that trains; ``ask`` is to be called where it is given."""
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="on GPUs: the same bits from every run of one seed, by slower kernels; a CPU and a TPU give them anyway",
    )


def ask(environment: MutableMapping[str, str] | None = None) -> None:
    """Sets the flags, for this process and those that it starts; before JAX looks at its devices.

    What a person has set already stays as it is.
    """
    environment = os.environ if environment is None else environment
    flags = environment.get("XLA_FLAGS", "")
    if FLAG not in flags:
        environment["XLA_FLAGS"] = f"{flags} {FLAG}=true".strip()
    environment.setdefault(*NCCL)
