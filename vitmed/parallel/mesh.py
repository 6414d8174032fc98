"""The mesh: how the devices are laid out for the work to be shared, from one line of the config.

Three axes. Over ``data`` each device sees other examples and holds the same state. Over ``fsdp`` it sees other examples
too, and holds its part of the state, which is gathered where it is used (Rajbhandari et al. 2020, "ZeRO",
arXiv:1910.02054). Over ``tensor`` it computes its part of the heads and of the hidden units for the same examples
(Shoeybi et al. 2019, "Megatron-LM", arXiv:1909.08053).
"""

import difflib
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from vitmed import words
from vitmed.errors import InputError

AXES = ("data", "fsdp", "tensor")


def sizes(text: str, devices: int) -> dict[str, int]:
    """``"data=-1,fsdp=2"`` as the size of every axis; -1 is whatever is left, an axis not named is 1.

    Raises:
        InputError: an axis or a size that there is not, or a mesh of another number of devices.
    """
    given: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = (word.strip() for word in part.partition("="))
        if name not in AXES:
            near = difflib.get_close_matches(name, AXES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the axes are {', '.join(AXES)}"
            raise InputError(f"config.parallel.mesh is {text!r}, which names the axis {name!r}; {hint}")
        if name in given:
            raise InputError(f"config.parallel.mesh is {text!r}, which names {name!r} twice")
        if not number.lstrip("-").isdigit() or (int(number) < 1 and int(number) != -1):
            raise InputError(
                f"config.parallel.mesh is {text!r}: the size of {name!r} is {number!r}; give a number of devices, or "
                "-1 for all that are left"
            )
        given[name] = int(number)
    if not given:
        raise InputError(f"config.parallel.mesh is {text!r}; name the axes, such as 'data=-1'")
    rest = [name for name, size in given.items() if size == -1]
    if len(rest) > 1:
        raise InputError(f"config.parallel.mesh is {text!r}; one axis alone may be -1")
    fixed = math.prod(size for size in given.values() if size > 0)
    if rest and devices % fixed == 0:
        given[rest[0]] = devices // fixed
    made = {name: max(given.get(name, 1), 1) for name in AXES}
    if math.prod(made.values()) != devices:
        raise InputError(
            f"config.parallel.mesh is {text!r}, which does not fit {words.plural(devices, 'device')}; the nearest "
            f"that does is {written(_nearest(made, devices))!r}"
        )
    return made


def written(sizes: dict[str, int]) -> str:
    """The line that gives these sizes, without the axes of one device."""
    return ",".join(f"{name}={size}" for name, size in sizes.items() if size > 1) or "data=1"


def make(sizes: dict[str, int], devices: Sequence[jax.Device]) -> Mesh:
    """The mesh of these sizes over ``devices``, in which every process has neighbouring rows of the batch.

    Raises:
        InputError: slices of TPUs, between which there is a network alone, that ``data`` does not divide into.
    """
    shape = tuple(sizes[name] for name in AXES)
    kinds = (AxisType.Auto,) * len(AXES)
    mesh = Mesh(_laid_out(sizes, devices), AXES, axis_types=kinds)
    if shares(mesh) is None:  # the best layout of the wires gave a process rows that do not lie together
        ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
        mesh = Mesh(np.asarray(ordered).reshape(shape), AXES, axis_types=kinds)
    return mesh


def _laid_out(sizes: dict[str, int], devices: Sequence[jax.Device]) -> np.ndarray:
    """The devices where their wires serve the axes best: ``jax.make_mesh`` without what it refuses.

    That is a ring of wires that two axes share, such as ``fsdp=8`` of a v5p's 4 x 4 x 4, and several slices.
    """
    shape = tuple(sizes[name] for name in AXES)
    tpu = devices[0].platform == "tpu"
    slices = len({getattr(device, "slice_index", 0) for device in devices}) if tpu else 1
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    if sizes["data"] % slices:
        raise InputError(
            f"config.parallel.mesh is {written(sizes)!r}, but these are {slices} slices of TPUs, over which only 'data' "
            f"goes well, and {sizes['data']} does not divide by {slices}; make 'data' a multiple of it"
        )
    within = (sizes["data"] // slices, *shape[1:])
    return mesh_utils.create_hybrid_device_mesh(
        within, (slices, 1, 1), devices, allow_split_physical_axes=True
    )


def shares(mesh: Mesh) -> tuple[int, int] | None:
    """(i, n): this process has the i-th of n equal parts of the batch; None where its rows do not lie together."""
    groups = mesh.devices.reshape(mesh.shape["data"] * mesh.shape["fsdp"], -1)
    own = [k for k, group in enumerate(groups) if any(d.process_index == jax.process_index() for d in group)]
    if not own:
        return (0, 1)  # devices that are not here: compiled for, ahead of time
    count = len(own)
    together = own == list(range(own[0], own[0] + count))
    if not together or own[0] % count or len(groups) % count:
        return None
    return own[0] // count, len(groups) // count


def _nearest(sizes: dict[str, int], devices: int) -> dict[str, int]:
    """Sizes that fit: the axes that shard keep what they can, ``data`` takes the rest."""
    made, left = {}, devices
    for name in ("tensor", "fsdp"):
        made[name] = max(k for k in range(1, left + 1) if left % k == 0 and k <= sizes[name])
        left //= made[name]
    return {"data": left, "fsdp": made["fsdp"], "tensor": made["tensor"]}
