"""What a training learns from: which scans of which datasets, within the label budget and without what is held out."""

import numpy as np

from vitmed.data import budget
from vitmed.data.dataset import Dataset
from vitmed.data.streams import Feed
from vitmed.data.structures import structures_of
from vitmed.errors import InputError
from vitmed.job.config import Config
from vitmed.parallel.engine import Engine, check_shared


def feeds_of(dataset: Dataset, config: Config, engine: Engine) -> dict[str, Feed]:
    """The streams that the config offers, which must be those that the objective learns from."""
    data, name = config.data, config.objective.name
    two = "unlabelled" in config.objective.streams
    for key in ("unlabelled", "unlabelled_batch"):
        if getattr(data, key) and not two:
            raise InputError(
                f"config.data.{key} is {getattr(data, key)!r}, but {name!r} learns from the main stream alone; "
                "leave it out"
            )
    if data.crop_foreground and not config.objective.of_masks:
        raise InputError(
            f"config.data.crop_foreground is {data.crop_foreground}, but {name!r} does not learn from masks, which say "
            "where such crops lie; leave it out"
        )
    copied = data.left_out(dataset, dataset)
    part = held_out(dataset, config, copied)
    held = np.union1d(copied, part)
    feeds = data.feeds(
        dataset,
        config.train.batch_size,
        config.train.seed,
        lambda one: _training_examples(
            one, dataset, config, copied if one is dataset else data.left_out(dataset, one), part
        ),
        config.objective.labelled,
        two,
        held,
        config.objective.excluded,
        config.objective.of_masks,
    )
    for feed in feeds.values():
        check_shared(feed.batch_size, feed.key, engine.sizes, config.parallel.accumulate)
    return feeds


def _training_examples(
    dataset: Dataset, validated: Dataset, config: Config, copied: np.ndarray, part: np.ndarray
) -> np.ndarray | None:
    """Indices of the split to train on, or None for all: the label budget, drawn beside ``copied``, without ``part``."""
    data = config.data
    if config.objective.of_masks and structures_of(dataset.datasheet) != structures_of(validated.datasheet):
        raise InputError(
            f"config.data.mix: the structures in the masks of {dataset.path} are not those of {validated.path}; ingest "
            "the two with the same ones"
        )
    if not config.objective.labelled:
        sampling = None if data.sampling == "natural" else data.sampling
        for key, value in (("labels", data.labels), ("fold", data.fold or None), ("sampling", sampling)):
            if value is not None:
                raise InputError(
                    f"config.data.{key} is {value}, but {config.objective.name!r} uses no labels; leave it out"
                )
        return None
    masks = config.objective.of_masks
    return np.setdiff1d(
        budget.labelled(dataset, data.split, data.labels, data.label_seed, masks, copied), part
    )


def held_out(dataset: Dataset, config: Config, copied: np.ndarray) -> np.ndarray:
    """Indices of the part of the label budget that ``config.data.fold`` leaves out; none without it.

    Args:
        copied: what ``config.data.apart`` leaves out, of which the budget has nothing.
    """
    data = config.data
    if not (data.fold and config.objective.labelled):
        return np.array([], np.int64)
    masks = config.objective.of_masks
    chosen = budget.labelled(dataset, data.split, data.labels, data.label_seed, masks, copied)
    return budget.fold(dataset, data.split, chosen, data.fold, data.label_seed, masks)
