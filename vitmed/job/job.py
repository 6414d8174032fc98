"""A training made ready: its data, and the pure functions that are compiled.

Every objective is trained by the one ``_update`` here, under whichever engine. Data order and every random draw are
functions of (seed, step, example), and the state holds all else.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vitmed import words
from vitmed.data import budget, loader, mirrors
from vitmed.data.augment import augment
from vitmed.data.keys import example_keys, step_key
from vitmed.data.streams import Feed
from vitmed.data.structures import structures_of
from vitmed.evaluate import health
from vitmed.infer import EVALUATION_SEED
from vitmed.job import nonfinite, truth
from vitmed.job.config import Config
from vitmed.job.feeds import feeds_of
from vitmed.models.cost import matmul_flops, short, state_bytes
from vitmed.objectives import registry, tallies, teacher
from vitmed.objectives.classifier import Classifier
from vitmed.objectives.interface import Objective, Spec
from vitmed.optim.optimiser import ema_update, schedule
from vitmed.parallel import processes, rules, shown
from vitmed.parallel.engine import Engine, engine
from vitmed.parallel.microbatches import microbatches
from vitmed.runs import averaged, folder, units
from vitmed.runs.finetune import Stage
from vitmed.runs.transfer import adaptations, start_from
from vitmed.scans.recipe import Recipe, normalise

_AUGMENT, _OBJECTIVE = 0, 1  # separate streams of randomness within a step


class Job:
    """Everything a run needs that follows from its config: data, objective, engine and the compiled functions.

    Args:
        recipe: of a run with ``config.init_from`` that has begun. It goes on from its own checkpoint, so that the run that
            it started from is asked for nothing any more and need not be there.
        former_sheet: of a run that has been made, its datasheet: numbers go on to be learned in its scale, or as they are
            where it names none.
        quiet: no progress on standard error, where voxels are counted.
    """

    def __init__(
        self,
        config: Config,
        recipe: Recipe | None = None,
        former_sheet: dict | None = None,
        quiet: bool = True,
    ):
        self.config = config
        self.dataset = config.data.open()
        own = config.data.recipe(self.dataset)
        self.former = (
            start_from(config.init_from, own, config.model, adaptations(config.init_adapt))
            if config.init_from and recipe is None
            else None
        )
        described = dataclasses.replace(
            recipe or (self.former.recipe if self.former else own),
            size=own.size,
            spacing=own.spacing,
            patch_size=config.model.patch_size or None,
            model=dataclasses.asdict(config.model),
        )
        made = engine(config.parallel, config.train.batch_size)
        self.feeds = feeds_of(self.dataset, config, made)
        self.examples = self.feeds["main"].examples
        spec = Spec.of(described, self.dataset.datasheet, config.train.total(self.examples))
        parts, task = self.feeds["main"].parts, self.dataset.datasheet["task"]
        scale = truth.scale(config, task, parts) if former_sheet is None else units.scale_of(former_sheet)
        told = truth.shown(config, parts, quiet)
        self._build(described, dataclasses.replace(spec, **told, label_scale=scale), made)
        probe, data = config.probe, config.data
        self._looked = health.choose(self.dataset, data.split, probe.examples) if probe.every else None

    @classmethod
    def on_paper(cls, config: Config, recipe: Recipe, spec: Spec, engine: Engine) -> "Job":
        """A job without data: its functions can be compiled, for devices that need not be here, but not be fed."""
        job = cls.__new__(cls)
        job.config = config
        job._build(recipe, spec, engine)
        return job

    def _build(self, recipe: Recipe, spec: Spec, engine: Engine) -> None:
        """The pure functions for what ``recipe`` and ``spec`` describe, compiled by ``engine``."""
        config = self.config
        self.recipe, self.spec, self.steps, self.engine = recipe, spec, spec.steps, engine
        self.seed = np.uint32(config.train.seed % 2**32)
        self.objective: Objective = self._objective(config.finetune.method == "probe")
        params = jax.eval_shape(self.fresh_params, self.seed)
        self.parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
        self.split = config.finetune.split(params)
        self.stages = config.finetune.stages(params, self.steps)
        self.optimiser: optax.GradientTransformation = config.finetune.rule(config.optim, self.steps, params)
        state = jax.eval_shape(self.fresh_state, self.seed)
        self._updates = [engine.compile(partial(self._update, stage=stage), state) for stage in self.stages]
        self.update = self._updates[-1]
        self.validate = engine.compile_read(self._validate)
        self.represent = engine.compile_read(self._represent)

    def _objective(self, still: bool) -> Objective:
        """The three functions; ``still`` for an encoder that is not trained, which no drop path holds back then."""
        model, remat = self.config.model, self.config.parallel.remat
        model = dataclasses.replace(model, drop_path=0.0) if still else model
        return registry.build(self.config.objective, model, self.spec, remat)

    def fresh_params(self, seed: np.uint32) -> Any:
        """Initial parameters: a function of the seed."""
        return self._fresh(seed)[0]

    def _fresh(self, seed: np.uint32) -> tuple[Any, Any]:
        """Initial parameters, with what the way of fine-tuning adds to them, and memory."""
        key = jax.random.key(seed)
        params, memory = self.objective.init(key, self.spec)
        return self.config.finetune.begun(params, key), memory

    def fresh_state(self, seed: np.uint32) -> dict:
        """Initial state: ``{params, memory, opt_state, ema, step, seed}``; the last but two of what is trained alone.

        The seed travels in the state and not as a constant of the program, so that runs which differ in
        nothing else share one compiled program.
        """
        params, memory = self._fresh(seed)
        trained = self.split.trained(params)
        return {
            "params": params,
            "memory": memory,
            "opt_state": self.optimiser.init(trained),
            "ema": jax.tree.map(jnp.copy, trained) if self.config.optim.ema else {},
            "step": jnp.zeros((), jnp.int32),
            "seed": jnp.asarray(seed, jnp.uint32),
        }

    def with_former(self, state: dict) -> dict:
        """The state with what the run that ``config.init_from`` names has learned, and what follows from it."""
        params = {**state["params"], "encoder": self.former.encoder(state["params"]["encoder"])}
        if "segmenter" in params:
            params["segmenter"] = self.former.segmenter(params["segmenter"], self._same_structures())
        if "decoder" in params:
            params["decoder"] = self.former.reconstructor(params["decoder"])
        if self.objective.after_transfer is not None:
            if processes.index() == 0:
                # A low-rank change is nothing yet: the former encoder is what the head is fitted to.
                params |= self.objective.after_transfer(
                    {name: part for name, part in params.items() if name != "lora"}, self._training_set()
                )
            params = processes.from_first(params)
        return {
            **state,
            "params": params,
            "memory": teacher.begin(state["memory"], params),
            "ema": self.split.trained(params) if self.config.optim.ema else {},
        }

    def _same_structures(self) -> bool:
        """Whether the run that this one starts from learned to score the very structures that are learned here."""
        run = self.former.run
        settings = folder.config_of(run)["objective"].to_dict()
        if settings["name"] not in registry.OBJECTIVES or not registry.section(settings).of_masks:
            return False
        return tuple(structures_of(folder.datasheet_of(run))) == self.spec.structures

    def update_at(self, step: int) -> Callable:
        """The compiled update of the stretch of training that ``step`` lies in."""
        return self._updates[self._stretch(step)]

    def _stretch(self, step: int) -> int:
        return sum(stage.start <= step for stage in self.stages) - 1

    def scans(self, step: int) -> dict[str, list[dict[str, Any]]]:
        """Of each stream, the scans of the global batch that the update from ``step`` to ``step + 1`` is made of."""
        return {name: list(_rows_of(feed, step)) for name, feed in self.feeds.items()}

    def gradient_norms(self, state: dict, step: int) -> dict[str, float]:
        """Norm of the gradient by array, of ``state`` after ``step`` updates and the batch that comes then."""
        measure = self.engine.compile_read(partial(self._norms, stage=self.stages[self._stretch(step)]))
        batch = self.engine.put_batch(next(self.batches(step)))
        norms = self.engine.to_host(measure(state, batch))
        return {rules.name(path): float(x) for path, x in jax.tree_util.tree_leaves_with_path(norms)}

    def _training_set(self) -> Iterator[dict]:
        """What is trained on, once, in order, prepared and not augmented; so many scans at once as one device takes."""
        prepare = jax.jit(lambda batch: self._prepare(batch, None))
        shares = math.prod(self.engine.sizes.values()) * self.config.parallel.accumulate
        size, data = max(1, self.config.train.batch_size // shares), self.config.data
        for part in self.feeds["main"].parts:
            for batch in loader.sweep(
                part.dataset, part.split, size, part.indices, workers=data.workers, crop=data.crop
            ):
                yield prepare(batch)

    def batches(self, start: int):
        """Training batches from step ``start`` on."""
        return loader.streams(self.feeds, start, self.steps, self.engine.shard, self.config.data.workers)

    def data(self) -> dict[str, Any]:
        """What is trained on, by content: how many examples of which datasets."""
        found = {"dataset": self.dataset.datasheet.get("content_hash")}
        for name, feed in self.feeds.items():
            found |= {f"{name} examples": feed.examples, f"{name} examples a step": feed.batch_size}
            for k, part in enumerate(feed.parts):
                found[f"{name} dataset {k}"] = part.dataset.datasheet.get("content_hash")
        return found

    def datasheet(self) -> dict:
        """The dataset's datasheet, with how many scans are learned from, the scale in which numbers are (``label_scale``),
        and ``beside`` it what else, by content.
        """
        beside = [
            {
                "stream": name,
                "weight": part.weight,
                "content_hash": part.dataset.datasheet.get("content_hash"),
                "examples": len(part.members),
            }
            for name, feed in self.feeds.items()
            for part in feed.parts
        ]
        plain = not self.config.data.mix and not self.config.data.unlabelled
        sheet = {**self.dataset.datasheet, "learned_from": self.examples}
        if self.spec.label_scale:
            sheet[units.KEY] = self.spec.label_scale
        return sheet if plain else {**sheet, "beside": beside}

    def validation(self, state: dict) -> dict[str, float]:
        """Metrics of the validation split as a whole, as ``val/NAME``; none of what nothing in it tells of."""
        data = self.config.data
        if not self.dataset.has_split(data.val_split):
            return {}
        whole = {}
        size = self.config.train.batch_size
        for batch in loader.sweep(
            self.dataset,
            data.val_split,
            size,
            self._judged(),
            shard=self.engine.shard,
            crop=data.crop,
        ):
            found = self.engine.to_host(self.validate(state, self.engine.put_batch(batch)))
            # A sweep's voxels outgrow float32.
            found = jax.tree.map(lambda x: np.asarray(x, np.float64), found)
            whole = jax.tree.map(np.add, whole, found) if whole else found
        return {f"val/{name}": float(one.value) for name, one in whole.items() if not one.empty}

    def _judged(self) -> np.ndarray | None:
        """Indices of the validation split that say anything of what is learned; None for all of it."""
        if not self.config.objective.of_masks:
            return None
        return budget.marked(self.dataset, self.config.data.val_split)

    def health(self, state: dict) -> dict[str, float]:
        """What the features of some of the training split are like (``vitmed.evaluate.health``)."""
        data, probe, looked = self.config.data, self.config.probe, self._looked
        shard = self.engine.shard
        made = [
            self.engine.to_host(self.represent(state, self.engine.put_batch(batch)))
            for batch in loader.sweep(
                self.dataset, data.split, self.config.train.batch_size, looked.indices, shard, crop=data.crop
            )
        ]
        features = np.concatenate(made)[: len(looked.indices)]
        return processes.first(
            lambda: health.report(features, self.dataset, data.split, looked, probe.neighbours)
        )

    def flops(self) -> int:
        """Floating-point operations in the matrix products of one update, nothing computed twice."""
        objective = registry.build(self.config.objective, self.config.model, self.spec)
        batch = {
            name: {
                key: jax.ShapeDtypeStruct((feed.batch_size, *row.shape[1:]), row.dtype)
                for key, row in feed.read(0, slice(0, 1)).items()
            }
            for name, feed in self.feeds.items()
        }

        def slopes(params, memory, batch):
            batch, key = self._prepare(batch, None), jax.random.key(0)
            return jax.grad(lambda p: objective.loss(p, memory, batch, key), has_aux=True)(params)

        start = jax.eval_shape(lambda: objective.init(jax.random.key(0), self.spec))
        return matmul_flops(slopes, *start, batch)

    def summary(self, start: int) -> str:
        """One line for a person about what is about to run, and what it takes; then one for each thing that is doubted."""
        config = self.config
        size = "x".join(map(str, self.spec.size))
        devices = words.plural(jax.device_count(), f"{jax.default_backend()} device")
        passes = self.steps * config.train.batch_size / self.examples
        text = (
            f"{config.objective.name}: {config.model.variant}, {self.parameters / 1e6:.1f} M parameters, "
            f"{words.plural(self.examples, 'scan')} of {size}x{self.spec.channels}, {self.steps} steps of {config.train.batch_size} "
            f"({passes:,.{1 if passes < 10 else 0}f} passes) on {devices}"
        )
        if not config.finetune.whole:
            text += f"; {config.finetune.told(jax.eval_shape(self.fresh_state, self.seed))}"
        for name, feed in self.feeds.items():
            if name != "main":
                text += f"; {feed.batch_size} a step of {words.plural(feed.examples, f'{name} scan')}"
        state = jax.eval_shape(self.fresh_state, self.seed)
        shared = shown.line(self.engine, state) or f"state {short(state_bytes(state))}B on each device"
        text += f"; {shared}, {short(self.flops())}FLOP a step"
        text += f"; going on from step {start}" if start else ""
        mirrored = {"config.augment": config.augment, "config.objective": config.objective}
        doubts = mirrors.doubts(mirrored, self.dataset.datasheet)
        # Few labels are shown again and again on purpose.
        if config.train.batch_size > self.examples and not config.objective.labelled:
            doubts.append(
                f"every step of {config.train.batch_size} shows each of the {self.examples} scans more than once; "
                "config.train.batch_size and .steps are meant for more of them"
            )
        if config.objective.excluded:
            doubts += self._unmarked()
        return "\nwarning: ".join([text, *doubts])

    def _unmarked(self) -> list[str]:
        """What should be said of scans without a mask, where masks say what is not learned from."""
        found = []
        for dataset in {
            id(part.dataset): part.dataset for feed in self.feeds.values() for part in feed.parts
        }.values():
            every = sum(dataset.datasheet["examples"].values())
            marked = (dataset.datasheet.get("marked") or {}).get("scans", every)
            if marked < every:
                found.append(
                    f"{words.plural(every - marked, 'scan')} of {every:,} in {dataset.path} without a mask: nothing of "
                    f"{'it is' if every - marked == 1 else 'them is'} excluded ({', '.join(self.config.objective.excluded)})"
                )
        return found

    @property
    def bytes_read(self) -> int:
        """Of records, so far, of the datasets that are trained on and validated on: a crop reads the chunks it touches."""
        parts = [part.dataset for feed in self.feeds.values() for part in feed.parts]
        return sum({id(dataset): dataset.bytes_read for dataset in (self.dataset, *parts)}.values())

    def sharding(self, state: dict) -> str:
        """Where each array of the state lies, and what a step sends; compiles the step."""
        batch = self.engine.put_batch(next(self.batches(0)))
        program = self.update.lower(state, batch).compile().as_text()
        return shown.table(self.engine, jax.eval_shape(self.fresh_state, self.seed), program)

    def _update(self, state: dict, batch: dict, stage: Stage) -> tuple[dict, dict]:
        """One update. Pure: what it returns is a function of its arguments."""
        config = self.config
        gradients, metrics, memory = self._slopes(state, batch, stage)
        trained = stage.split.trained(state["params"])
        updates, opt_state = self.optimiser.update(gradients, state["opt_state"], trained)
        params = stage.split.joined(state["params"], optax.apply_updates(trained, updates))
        step = state["step"] + 1
        kept = self.split.trained(params)
        after = {
            "params": params,
            "memory": self.objective.after_update(config.finetune.plain(params), memory, step),
            "opt_state": opt_state,
            "ema": ema_update(state["ema"], kept, step, config.optim.ema) if config.optim.ema else {},
            "step": step,
            "seed": state["seed"],
        }
        norm = optax.tree.norm(gradients)
        if config.train.skip_nonfinite:
            after = nonfinite.guarded(state, after, jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm))
        rate = schedule(config.optim, self.steps)(state["step"])
        return after, {**metrics, "gradient_norm": norm, "learning_rate": rate}

    def _slopes(self, state: dict, batch: dict, stage: Stage) -> tuple[dict, dict, Any]:
        """Gradients of what is trained, metrics, and the memory after the batch, over all devices."""
        config, axis = self.config, self.engine.axis
        key = step_key(state["seed"], state["step"])
        batch = self._prepare(batch, jax.random.fold_in(key, _AUGMENT))
        objective_key = jax.random.fold_in(key, _OBJECTIVE)
        objective = self._objective(stage.still)

        def loss(trained):
            params = config.finetune.plain(stage.split.joined(state["params"], trained))
            with microbatches(config.parallel.accumulate):
                return objective.loss(params, state["memory"], batch, objective_key, axis=axis, train=True)

        trained = stage.split.trained(state["params"])
        (_, (metrics, memory)), gradients = jax.value_and_grad(loss, has_aux=True)(trained)
        if axis is not None:
            gradients = jax.lax.pmean(gradients, axis)
        return gradients, tallies.values(metrics), memory

    def _norms(self, state: dict, batch: dict, stage: Stage) -> dict:
        return jax.tree.map(jnp.linalg.norm, self._slopes(state, batch, stage)[0])

    def _validate(self, state: dict, batch: dict) -> dict:
        """Metrics of a batch, as tallies."""
        params = self._given(state)
        batch = self._prepare(batch, None)
        key = jax.random.key(EVALUATION_SEED)
        with microbatches(self.config.parallel.accumulate):
            _, (metrics, _) = self.objective.loss(
                params, state["memory"], batch, key, axis=self.engine.axis, train=False
            )
        scans = jnp.sum(batch["main"]["weight"])
        scans = scans if self.engine.axis is None else jax.lax.psum(scans, self.engine.axis)
        return tallies.by_scans(metrics, scans)

    def _represent(self, state: dict, batch: dict) -> jax.Array:
        """``(B, D)`` features of the whole global batch, from the parameters that the run is used by."""
        params = self._given(state)
        params = params if self.config.optim.ema else averaged(params, state["memory"])
        network = Classifier(self.config.model, self.spec, self.config.parallel.remat)
        with microbatches(self.config.parallel.accumulate):
            features = network.features(params, self._prepare(batch, None)["main"]["image"])
        axis = self.engine.axis
        return features if axis is None else jax.lax.all_gather(features, axis, tiled=True)

    def _given(self, state: dict) -> dict:
        """The parameters by which the run is used, as a network takes them."""
        params = state["params"]
        if self.config.optim.ema:
            params = self.split.joined(params, state["ema"])
        return self.config.finetune.plain(params)

    def _prepare(self, batch: dict, key: jax.Array | None) -> dict:
        """Stored integers to normalised images; with a key, augmented ones."""
        made = {}
        for name, stream in batch.items():
            image = normalise(stream["image"], stream["scale"], stream["offset"], self.recipe)
            changed = {"image": image}
            if key is not None:
                own = key if name == "main" else jax.random.fold_in(key, zlib.crc32(name.encode()))
                keys = example_keys(own, stream["example"])
                masks, spacing = stream.get("mask"), stream["spacing"]
                augmented = augment(image, keys, self.config.augment, masks, spacing)
                changed = {"image": augmented} if masks is None else dict(zip(("image", "mask"), augmented))
            made[name] = {**stream, **changed}
        return made


def _rows_of(feed: Feed, step: int) -> Iterator[dict[str, Any]]:
    for k, index in zip(*feed.drawn(step), strict=True):
        dataset, split = feed.parts[k].dataset, feed.parts[k].split
        yield {
            "dataset": str(dataset.path),
            "split": split,
            "index": int(index),
            "id": dataset.ids(split)[index],
        }
