"""Measures the training step, against a peer and against the machine, and what the loop adds to it."""

import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vitmed import config as configs
from vitmed.errors import InputError
from vitmed.job.config import check
from vitmed.job.job import Job
from vitmed.models.build import PRESETS, ModelConfig
from vitmed.models.cost import matmul_flops
from vitmed.models.patches import grid
from vitmed.objectives import mae, registry
from vitmed.objectives.interface import Spec
from vitmed.optim.optimiser import OptimConfig, optimiser
from vitmed.parallel.engine import JitEngine
from vitmed.pool import bound
from vitmed.progress import Bar
from vitmed.scale.peers import Peer
from vitmed.train import train

SIDE = 2048  # of the square product that measures the ceiling: the size of a large layer's


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is timed: MAE ViT-B/16 on colour images of 224 x 224 unless a config says otherwise."""

    model: ModelConfig = ModelConfig("b", (16, 16))
    objective: object = mae.Config()
    optim: OptimConfig = OptimConfig(lr=1.5e-4, beta2=0.95)
    spec: Spec = Spec((224, 224), 3)
    remat: str = "none"

    @classmethod
    def of(cls, values: ConfigDict) -> "Setting":
        """The setting of a training config; images are made up, so no dataset is opened.

        Raises:
            InputError: a config that does not say the size of its images.
        """
        config = check(values)
        if config.data.size is None:
            raise InputError(
                "config.data.size is missing: bench step makes up its images and must know their size"
            )
        spec = Spec(config.data.size, config.data.channels or 1)
        return cls(config.model, config.objective, config.optim, spec, config.parallel.remat)


def step(
    setting: Setting, batch: int = 8, repeats: int = 5, peers: tuple[str, ...] = (), quiet: bool = False
) -> dict:
    """Times forward, backward and AdamW update, in turn with the peers' and with a bare matrix product.

    Returns:
        ``images_per_second``, ``peers`` {name: images per second}, ``ratio`` {name: ours/theirs}, ``mfu`` (share of
        the measured rate of matrix products in the model's dtype), from medians over ``repeats``; and what they are of.

    Raises:
        InputError: a peer that is missing or cannot do this model; another objective than MAE.
    """
    threads = bound()  # as XLA takes
    shape = peer_shape(setting) if peers else {}
    if setting.objective.name != "mae":
        raise InputError(f"config.objective.name is {setting.objective.name!r}; bench step times 'mae'")
    with contextlib.ExitStack() as stack, Bar("bench step", repeats, "rounds", quiet=quiet) as bar:
        run, flops = compiled_step(setting, batch)
        product, product_flops = matrix_product(setting.model.dtype)
        timed: dict[str, Callable[[], float]] = {
            "ours": lambda: seconds(run),
            "product": lambda: seconds(product),
        }
        for name in peers:
            timed[name] = stack.enter_context(Peer(name, shape, batch, threads)).seconds
        for warm in (run, run, product):
            seconds(warm)
        took = {name: [] for name in timed}
        for _ in range(repeats):
            for name, once in timed.items():
                once()  # untimed: training runs step after step, while here each has just waited for the others
                took[name].append(once())
            bar.advance(
                1, ", ".join(f"{name} {times[-1]:.2f} s" for name, times in took.items() if name != "product")
            )
    median = {name: statistics.median(times) for name, times in took.items()}
    return {
        "images_per_second": round(batch / median["ours"], 3),
        "peers": {name: round(batch / median[name], 3) for name in peers},
        "ratio": {name: round(median[name] / median["ours"], 3) for name in peers},
        "mfu": round(flops / median["ours"] / (product_flops / median["product"]), 3),
        "ceiling_gflops": round(product_flops / median["product"] / 1e9, 1),
        "step_gflop": round(flops / 1e9, 1),
        "seconds": {name: [round(t, 4) for t in times] for name, times in took.items() if name != "product"},
        "batch": batch,
        "repeats": repeats,
        "threads": threads,
        "device": jax.devices()[0].device_kind,
    }


def loop(values: ConfigDict, steps: int = 200, repeats: int = 3, quiet: bool = False) -> dict:
    """What the training loop costs beyond its compiled step: waiting for data, metrics, checkpoints.

    Each round times ``steps`` bare updates on one batch, then a whole ``train`` of as many in a throw-away folder
    (its first step, which compiles, apart). Checkpoints come as often as the config says, and one at the end;
    there is no validation, which is not overhead but other work.

    Returns:
        ``images_per_second`` of the loop and ``bare_images_per_second`` of the step (medians), ``overhead`` (the
        median over the rounds of the loop's extra time as a share of the bare step's) and ``data_wait``.
    """
    values = values.to_dict()
    values["train"] = {**values["train"], "steps": steps, "epochs": None, "val_every": 0}
    values["checkpoint"] = {**values.get("checkpoint", {}), "best": None}
    values = configs.tree(values)
    batch_size = check(values).train.batch_size
    job = Job(check(values))
    batch = job.engine.put_batch(next(iter(job.batches(0))))
    bare, looped, waits = [], [], []
    with Bar("bench loop", repeats, "rounds", quiet=quiet) as bar:
        for _ in range(repeats):
            state, metrics = job.update(job.engine.init(job.fresh_state, job.seed), batch)
            jax.block_until_ready((state, metrics))
            began = time.perf_counter()
            for _ in range(steps - 1):
                state, metrics = job.update(state, batch)
            jax.block_until_ready((state, metrics))
            bare.append((steps - 1) * batch_size / (time.perf_counter() - began))
            del state
            with tempfile.TemporaryDirectory() as folder:
                result = train(values, Path(folder) / "run", quiet=True)
            looped.append(result["images_per_second"])
            waits.append(result["data_wait"])
            bar.advance(1, f"bare {bare[-1]:.1f}, loop {looped[-1]:.1f} images a second")
    return {
        "images_per_second": round(statistics.median(looped), 2),
        "bare_images_per_second": round(statistics.median(bare), 2),
        "overhead": round(statistics.median(b / x - 1 for b, x in zip(bare, looped)), 4),
        "data_wait": statistics.median(waits),
        "steps": steps,
        "repeats": repeats,
        "batch": batch_size,
        "device": jax.devices()[0].device_kind,
    }


def compiled_step(setting: Setting, batch: int) -> tuple[Callable, int]:
    """A function that does one update of a state it keeps, and the FLOPs of the update."""
    objective = registry.build(setting.objective, setting.model, setting.spec, setting.remat)
    engine = JitEngine()
    image = jax.random.normal(jax.random.key(1), (batch, *setting.spec.size, setting.spec.channels))
    example = jnp.arange(2 * batch, dtype=jnp.uint32).reshape(batch, 2)
    images = engine.put_batch({"main": {"image": image, "example": example, "weight": jnp.ones(batch)}})

    def fresh():
        params, memory = objective.init(jax.random.key(0), setting.spec)
        return {
            "params": params,
            "memory": memory,
            "opt": rule.init(params),
            "step": jnp.zeros((), jnp.int32),
        }

    def loss(params, memory, step, batch):
        return objective.loss(params, memory, batch, jax.random.fold_in(jax.random.key(2), step))

    def update(state, batch):
        slopes = jax.value_and_grad(loss, has_aux=True)
        (value, (_, memory)), gradients = slopes(state["params"], state["memory"], state["step"], batch)
        updates, opt = rule.update(gradients, state["opt"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "memory": memory, "opt": opt, "step": state["step"] + 1}, value

    params, memory = jax.eval_shape(lambda: objective.init(jax.random.key(0), setting.spec))
    rule = optimiser(setting.optim, 10_000, params)
    flops = 3 * matmul_flops(loss, params, memory, jnp.zeros((), jnp.int32), images)
    compiled = engine.compile(update)
    kept = [engine.init(fresh)]

    def run():
        kept[0], value = compiled(kept[0], images)
        return kept[0], value

    return run, flops


def matrix_product(dtype: str) -> tuple[Callable, int]:
    """A function that multiplies two square matrices, and its FLOPs."""
    a, b = jax.random.normal(jax.random.key(0), (2, SIDE, SIDE), dtype)
    product = jax.jit(jnp.matmul)
    return lambda: product(a, b), 2 * SIDE**3


def peer_shape(setting: Setting) -> dict:
    """Our model in the fields of ``transformers.ViTMAEConfig``.

    Raises:
        InputError: what ViTMAE cannot be: 3D, not square, other targets; or an accelerator, where a comparison
            with PyTorch on the CPU would mean nothing.
    """
    model, size = setting.model, setting.spec.size
    if jax.default_backend() != "cpu":
        raise InputError(
            f"peers are timed on the CPU, and JAX runs on {jax.default_backend()} here; set JAX_PLATFORMS=cpu"
        )
    if len(size) != 2 or len(set(size)) != 1 or len(set(model.patch_size)) != 1 or not model.patch_size:
        raise InputError(
            f"the peer does square 2D images and patches only, not {size} with {model.patch_size}"
        )
    if setting.objective.target != "patch" or model.dtype != "float32":
        raise InputError("the peer is compared in float32 with config.objective.target='patch' only")
    if any(getattr(model, name) != value for name, value in PRESETS["plain"].items()):
        raise InputError("the peer is a plain ViT; leave config.model.preset and its keys out to compare")
    grid(size, model.patch_size)
    variant = model.vit
    return dict(
        hidden_size=variant.dim, num_hidden_layers=variant.depth, num_attention_heads=variant.heads,
        intermediate_size=variant.mlp_dim, image_size=size[0], patch_size=model.patch_size[0],
        num_channels=setting.spec.channels, decoder_hidden_size=model.decoder_dim,
        decoder_num_hidden_layers=model.decoder_depth, decoder_num_attention_heads=model.decoder_heads,
        decoder_intermediate_size=4 * model.decoder_dim, mask_ratio=setting.objective.mask_ratio, norm_pix_loss=True,
    )  # fmt: skip


def seconds(function: Callable) -> float:
    """How long a call takes until its results are there."""
    began = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - began
