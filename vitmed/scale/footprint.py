"""What a training step needs of one device, from its traced form: operations, bytes kept, bytes moved.

Nothing is compiled, so this takes seconds and serves any device. Memory is what the state takes, what differentiation
keeps between the forward and the backward pass (exactly, by the rules of rematerialisation) and the gradients. A compiler
fuses, reorders and pads; where there is one for the chip (``vitmed.scale.ahead``), its word counts instead.
"""

import dataclasses
import math
from dataclasses import dataclass

import jax
from jax.extend import core

from vitmed.data.keys import step_key
from vitmed.job.config import Config
from vitmed.job.job import Job
from vitmed.models.cost import Product, products, state_bytes
from vitmed.models.vit import VARIANTS
from vitmed.parallel.engine import ParallelConfig
from vitmed.scale.drawing import Drawing, draw


@dataclass(frozen=True)
class Footprint:
    """Of one device that does a whole step by itself.

    Attributes:
        examples: of the step.
        parameters: bytes.
        gradients: bytes, of what is trained of them.
        state: bytes of parameters, optimiser, EMA and memory.
        kept: bytes an example, between the forward and the backward pass.
        fixed: bytes kept likewise, of however many examples.
        again: bytes an example, while one layer is computed again.
        fed: bytes of one example as it is stored.
        products: with what is computed again.
    """

    examples: int
    parameters: int
    gradients: int
    state: int
    kept: float
    fixed: float
    again: float
    fed: float
    products: tuple[Product, ...]

    @property
    def flops(self) -> float:
        """Of products, an example."""
        return sum(one.flops * one.times for one in self.products) / self.examples

    def memory(self, examples: float, shards: int = 1, parts: int = 1) -> float:
        """Bytes at the most, about.

        Args:
            examples: that the device has of a step.
            shards: it holds 1/``shards`` of the state, and of the parameters what it has gathered.
            parts: in which it takes its examples.
        """
        gathered = self.parameters if shards > 1 else 0
        held = (self.state + self.gradients) / shards + gathered
        return held + self.fixed + (self.kept + self.again) * examples / parts + self.fed * examples


def footprint(config: Config, examples: int) -> Footprint:
    """The footprint of ``config``'s step of ``examples``, whatever its own batch and mesh."""
    parallel = config.parallel
    examples = _evenly_beside(config, examples)
    alone = ParallelConfig(engine=parallel.engine, remat=parallel.remat)
    drawing = _drawn(config, examples, alone)
    kept, fixed = _kept(config, examples, alone)
    again = 0
    if parallel.remat != "none":
        again = _kept(config, examples, dataclasses.replace(alone, remat="none"))[0] / _depth(config)
    if parallel.accumulate > 1:
        drawing = _drawn(config, examples, dataclasses.replace(alone, accumulate=parallel.accumulate))
    state, batch = drawing.state, drawing.batch
    return Footprint(
        examples=examples,
        parameters=state_bytes(state["params"]),
        gradients=state_bytes(jax.eval_shape(drawing.job.split.trained, state["params"])),
        state=state_bytes(state),
        kept=kept,
        fixed=fixed,
        again=again,
        fed=state_bytes(batch) / examples,
        products=tuple(products(drawing.job.update, state, batch)),
    )


def _evenly_beside(config: Config, examples: int) -> int:
    """The least number of examples, from ``examples`` on, with which an even number of the second stream comes."""
    if config.data.unlabelled_batch is None:
        return examples
    batch = config.train.batch_size
    step = 2 * batch // math.gcd(batch, config.data.unlabelled_batch)
    return -(-examples // step) * step


def _drawn(config: Config, examples: int, parallel: ParallelConfig) -> Drawing:
    """The step on one device, of ``examples`` of the main stream and as many of the other as belong to them.

    Layers are scanned, which does and keeps the same and is traced in the time of one.
    """
    beside = config.data.unlabelled_batch
    if beside is not None:
        beside = beside * examples // config.train.batch_size
    return draw(
        dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, unlabelled_batch=beside),
            model=dataclasses.replace(config.model, scan=True),
            train=dataclasses.replace(
                config.train, batch_size=examples, steps=config.train.steps or 1, epochs=None
            ),
            parallel=parallel,
        ),
        jax.devices()[:1],
    )


def _kept(config: Config, examples: int, parallel: ParallelConfig) -> tuple[float, float]:
    """Bytes that differentiation keeps, an example and beside: what the backward pass reads beside its arguments."""
    once, twice = (_read_again(_drawn(config, n, parallel)) for n in (examples, 2 * examples))
    each = (twice - once) / examples
    return each, max(once - each * examples, 0.0)


def _read_again(drawing: Drawing) -> int:
    traced = jax.make_jaxpr(lambda state, batch: _pullback(drawing.job, state, batch))(
        drawing.state, drawing.batch
    )
    given = {*traced.jaxpr.invars, *traced.jaxpr.constvars}
    arrays = {v: v.aval for v in traced.jaxpr.outvars if not isinstance(v, core.Literal) and v not in given}
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays.values())


def _pullback(job: Job, state: dict, batch: dict):
    """The backward pass as a function, whose leaves are what is kept for it."""
    key = step_key(state["seed"], state["step"])
    prepared = job._prepare(batch, key)

    def loss(trained):
        plain = job.config.finetune.plain(job.split.joined(state["params"], trained))
        return job.objective.loss(plain, state["memory"], prepared, key, axis=None, train=True)

    return jax.vjp(loss, job.split.trained(state["params"]), has_aux=True)[1]


def _depth(config: Config) -> int:
    variant = VARIANTS.get(config.model.variant)
    return variant.depth if variant else 1
