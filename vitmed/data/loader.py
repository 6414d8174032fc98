"""Batches in training order and sweeps over a split, made ahead of need by threads.

What a step's batch holds depends on (seed, step) alone, so an iterator is begun at any step without reading
what came before it, and every process works out the same global batch and reads its own slice of it.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import grain
import numpy as np

from vitmed.data import balance, crops
from vitmed.data.copies import copies
from vitmed.data.crops import Crop
from vitmed.data.dataset import Dataset, Stream
from vitmed.data.streams import Feed, Part, rows, seed_of
from vitmed.data.structures import structures_of
from vitmed.errors import InputError
from vitmed.scans.recipe import EXPECTED, Recipe, ends_of

AHEAD = 4  # batches made before they are asked for: enough for a slow read, few enough to hold in memory

Batch = dict[str, Stream]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The ``data`` section of a config.

    Attributes:
        path: folder of the dataset.
        split: trained on.
        val_split: validated on; it may be missing from the dataset.
        size: spatial size that the model is fed, array order; given, it must be the dataset's, or ``crop``.
        crop: size of a random box, array order, that is trained on in place of the whole scan: another one each time,
            a function of (seed, step, example), and only what it touches is read. What is swept over (validation,
            evaluation) is the box at the centre. None is the whole scan.
        crop_foreground: share, in [0, 1], of the random boxes that are about a marked voxel, of any structure that the
            scan's mask holds with the same chance (``vitmed.data.crops``); nnU-Net takes a third. For objectives that
            learn from masks.
        channels: given, it must be the dataset's.
        window: what of the Hounsfield units of a CT the model sees: a name of ``vitmed.scans.recipe.WINDOWS`` ("lung",
            "abdomen", "bone", "brain", ...) or the two ends (low, high); what lies beyond is clipped, and the ends become
            -1 and 1. None is -1000 to 1000, standardised by the training split. It is part of the run's recipe:
            evaluation and prediction take it over, and a run that starts from another's encoder must have the same.
        mix: {path of a dataset: weight}: what is trained on in place of ``path`` alone, each dataset in proportion to
            its weight, whatever its size. ``path`` remains what is validated on and what gives the recipe, which
            the others must share; it is trained on only where the mix names it.
        unlabelled: a second stream without labels, for objectives that learn from one: "split" is the whole of what
            is trained on before any label budget, a path another dataset, "" the rest of the split, whose labels
            are not learned from (where there is no budget and all is labelled, the whole of it).
        unlabelled_batch: size of its global batch; None is that of ``config.train.batch_size``.
        labels: label budget: an int counts examples, a float is a fraction of the labelled ones; None is all.
        label_seed: which draw of the budget.
        sampling: "natural" draws every labelled scan equally often; "balanced" every class, however rare
            (``vitmed.data.balance`` says what that is where a scan has several labels).
        fold: (k, n) holds the k-th of n parts of the labelled scans out of all that is trained on, for
            cross-validation within the label budget; k from 0. () is none.
        apart: splits of ``path`` of whose scans nothing learns a copy: what has their pixels is left out of every stream,
            and of what ``labels`` counts and draws from.
        workers: threads that make batches; 0 makes them when asked.
    """

    path: str
    split: str = "train"
    val_split: str = "val"
    size: tuple[int, ...] | None = None
    crop: tuple[int, ...] | None = None
    crop_foreground: float = 0.0
    channels: int | None = None
    window: str | tuple[float, ...] | None = dataclasses.field(default=None, metadata={"expected": EXPECTED})
    mix: dict[str, float] = dataclasses.field(default_factory=dict)
    unlabelled: str = ""
    unlabelled_batch: int | None = None
    labels: int | float | None = dataclasses.field(  # int first: 1 is one label, 1.0 is all of them
        default=None, metadata={"expected": "give a count such as 40 or a fraction such as 0.1"}
    )
    label_seed: int = 0
    sampling: Literal["natural", "balanced"] = "natural"
    fold: tuple[int, ...] = ()
    apart: tuple[str, ...] = ()
    workers: int = 2

    def __post_init__(self):
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}; give the number of loading threads, 0 or more")
        if self.window is not None:
            ends_of(self.window)
        if not 0 <= self.crop_foreground <= 1:
            raise ValueError(f"crop_foreground is {self.crop_foreground}; a share from 0 to 1 was expected")
        if self.crop_foreground and self.crop is None:
            raise ValueError(
                f"crop_foreground is {self.crop_foreground}, but config.data.crop is not given, so that all of every "
                "scan is seen; give it, or leave crop_foreground out"
            )
        for path, weight in self.mix.items():
            if not path:
                raise ValueError("mix names a dataset by no path; give {path: weight}")
            if not (0 < weight < math.inf):
                raise ValueError(f"mix gives {path} the weight {weight}; a positive number was expected")
        if self.mix and not self.path:
            raise ValueError(
                "path is empty; beside config.data.mix it names the dataset that is validated on and that gives "
                "the normalisation"
            )
        if self.mix and self.labels is not None:
            raise ValueError(
                f"labels is {self.labels}, but a label budget is drawn from one dataset; leave out config.data.mix"
            )
        if self.mix and self.sampling != "natural":
            raise ValueError(
                f"sampling is {self.sampling!r}, but config.data.mix says how often each dataset is drawn; leave one out"
            )
        if self.fold and (len(self.fold) != 2 or not 0 <= self.fold[0] < self.fold[1]):
            raise ValueError(f"fold is {self.fold}; (k, n) was expected, the k-th of n parts, k from 0")
        if self.fold and self.mix:
            raise ValueError(
                f"fold is {self.fold}, but labels are held out of one dataset; leave out config.data.mix"
            )
        if self.unlabelled_batch is not None and self.unlabelled_batch < 1:
            raise ValueError(f"unlabelled_batch is {self.unlabelled_batch}; at least 1 was expected")

    def open(self) -> Dataset:
        """Opens the dataset and checks this section against it.

        Raises:
            InputError: no path is given, no such dataset or training split, another size or number of channels than its
                own, or a crop that does not lie within its scans.
        """
        if not self.path:
            raise InputError("config.data.path is empty; name the dataset: --config.data.path=DATASET")
        dataset = Dataset.open(self.path)
        dataset.size(self.split)
        self.recipe(dataset)
        found = dataset.datasheet["channels"]
        if self.channels is not None and self.channels != found:
            raise InputError(
                f"config.data.channels is {self.channels}, but {self.path} holds images of {found}; "
                f"set it to {found} or leave it out"
            )
        return dataset

    def left_out(self, dataset: Dataset, other: Dataset) -> np.ndarray:
        """Examples of the training split of ``other`` that are copies of scans of the splits ``apart`` of ``dataset``."""
        return copies(other, self.split, dataset, self.apart) if self.apart else np.array([], np.int64)

    def recipe(self, dataset: Dataset) -> Recipe:
        """How a model gets its input from a dataset by this section.

        Raises:
            InputError: as ``Dataset.recipe``, a crop that does not lie within the dataset's scans, or a window for
                what is not in Hounsfield units.
        """
        recipe = self._boxed(dataset)
        if self.window is None:
            return recipe
        if recipe.unit != "HU":
            raise InputError(
                f"config.data.window is {self.window!r}, a window in Hounsfield units, but {self.path} holds {recipe.modality}, "
                "which is seen over its whole range; leave it out"
            )
        return recipe.through(ends_of(self.window))

    def _boxed(self, dataset: Dataset) -> Recipe:
        """The dataset's own recipe, for its scans or the boxes of them that are asked for."""
        if self.crop is None:
            return dataset.recipe(self.size)
        whole = dataset.recipe()
        crops.check(self.crop, whole.size, str(dataset.path))
        if self.size not in (None, self.crop):
            asked, box = (",".join(map(str, s)) for s in (self.size, self.crop))
            raise InputError(
                f"config.data.size is {asked} and config.data.crop {box}; what the model is fed is the crop: "
                f"set size to {box} too, or leave it out"
            )
        return dataclasses.replace(whole, size=self.crop)

    def feeds(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        members: Callable[[Dataset], np.ndarray | None] = lambda dataset: None,
        labelled: bool = True,
        rest: bool = False,
        held: Sequence[int] = (),
        excluded: Sequence[str] = (),
        masks: bool = False,
    ) -> dict[str, Feed]:
        """The streams of training: ``main``, and ``unlabelled`` where the section or ``rest`` asks for it.

        Args:
            dataset: what ``open`` gave.
            batch_size: of ``main``'s global batch.
            seed: of the run.
            members: the examples of a dataset's training split that ``main`` is drawn from; None is all.
            labelled: whether labels are learned from. Without, datasets of a mix may have other labels.
            rest: make ``unlabelled`` of what ``main`` leaves of its split where the section names nothing for it.
            held: examples of the training split of ``dataset`` that no stream may have.
            excluded: structures for whose sake masks come along where labels do not.
            masks: it is masks that are learned from, so that these are balanced.

        Raises:
            InputError: a dataset that cannot be opened, or whose recipe or labels are not those of ``dataset``, a
                label budget that leaves nothing, or ``excluded`` where the masks of another dataset mean another thing.
        """
        opened = {
            dataset.path.resolve(): dataset
        }  # one of each, so that what it keeps in memory is kept once
        parts = []
        for path, weight in self.mix.items():
            other = self._beside(opened, path, dataset, "config.data.mix")
            other.size(self.split)
            if labelled and _labels(other) != _labels(dataset):
                raise InputError(
                    f"config.data.mix: the labels of {other.path} ({_labels(other)}) are not those of {dataset.path} "
                    f"({_labels(dataset)}); learn without labels, or ingest the two with the same ones"
                )
            out = tuple(held) if other is dataset else tuple(self.left_out(dataset, other))
            parts.append(Part(other, self.split, members(other), weight, held=out))
        # By content: a mix is the same in whatever order it is written and wherever its datasets lie.
        parts.sort(key=lambda part: (part.dataset.datasheet.get("content_hash", ""), str(part.dataset.path)))
        parts = parts or [Part(dataset, self.split, members(dataset), held=tuple(held))]
        for part in parts:
            _check_structures(part.dataset, dataset, excluded)
        alike = all(_labels(part.dataset) == _labels(dataset) for part in parts)
        groups = ()
        if self.sampling == "balanced":
            groups = balance.groups(dataset, self.split, parts[0].members, masks)
        main = Feed(
            parts,
            batch_size,
            seed_of(seed, "main"),
            alike,
            crop=self.crop,
            groups=groups,
            masks=bool(excluded),
            foreground=self.crop_foreground,
        )
        made = {"main": main}
        if self.unlabelled or rest:
            if not self.unlabelled:
                whole = self._rest(parts)
            elif self.unlabelled == "split":
                whole = [dataclasses.replace(part, indices=None) for part in parts]
            else:
                other = self._beside(opened, self.unlabelled, dataset, "config.data.unlabelled")
                out = tuple(held) if other is dataset else tuple(self.left_out(dataset, other))
                whole = [Part(other, self.split, held=out)]
            for part in [*parts, *whole]:
                _check_structures(part.dataset, dataset, excluded)
            size = self.unlabelled_batch or batch_size
            key = "config.data.unlabelled_batch" if self.unlabelled_batch else "config.train.batch_size"
            own = seed_of(seed, "unlabelled")
            made["unlabelled"] = Feed(whole, size, own, False, key, self.crop, masks=bool(excluded))
        return made

    def _rest(self, parts: list[Part]) -> list[Part]:
        """What ``parts`` leave of their splits; all of it where every label may be learned from."""
        left = [dataclasses.replace(part, indices=part.others) for part in parts]
        left = [part for part in left if len(part.indices)]
        if left:
            return left
        if self.labels is None:
            return [dataclasses.replace(part, indices=None) for part in parts]
        raise InputError(
            f"config.data.labels is {self.labels}, which leaves no scan of split {self.split!r} of {self.path} without "
            "a label; give fewer labels, or name other scans in config.data.unlabelled"
        )

    def _beside(self, opened: dict[Path, Dataset], path: str, dataset: Dataset, key: str) -> Dataset:
        """The dataset at ``path``, if a model fed from ``dataset`` can be fed from it too."""
        place = Path(path).resolve()
        if place not in opened:
            try:
                opened[place] = Dataset.open(path)
            except InputError as error:
                raise InputError(f"{key}: {error}") from None
        other, recipe = opened[place], dataset.recipe()
        theirs = other.recipe()
        differences = recipe.differences(theirs)
        if recipe.size != theirs.size and self.crop is None:
            differences.append(f"size is {recipe.size} here and {theirs.size} there")
        if differences:
            raise InputError(
                f"{key}: {other.path} does not fit {dataset.path}: {'; '.join(differences)} "
                f"(here: {dataset.path}, there: {other.path}); ingest them alike"
            )
        if self.crop is not None:
            crops.check(self.crop, theirs.size, str(other.path))
        return other


def _check_structures(other: Dataset, dataset: Dataset, names: Sequence[str]) -> None:
    """InputError where the masks of ``other`` do not hold the structures of these ``names`` as those of ``dataset`` do."""
    here, there = (dict(structures_of(one.datasheet)) for one in (dataset, other))
    for name in names:
        if here.get(name) != there.get(name):
            raise InputError(
                f"config.objective excludes the structure {name!r}, which the masks of {other.path} do not hold as those "
                f"of {dataset.path} do; ingest the two with the same structures, or leave it out"
            )


def _labels(dataset: Dataset) -> str:
    sheet = dataset.datasheet
    return f"{sheet['task']}: {', '.join(sheet['classes'] or ())}" if sheet["task"] else "none"


def batches(
    dataset: Dataset,
    split: str,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    indices: np.ndarray | None = None,
    shard: tuple[int, int] = (0, 1),
    workers: int = 2,
) -> Iterator[Batch]:
    """The batches of steps ``start`` ... ``stop - 1`` in training order.

    Args:
        batch_size: of the global batch.
        seed: of the data order.
        indices: restricts to these examples of the split (a label budget); each is seen once an epoch.
        shard: (i, n): this process is the i-th of n and gets rows i*B/n ... (i+1)*B/n of the global batch.
        workers: threads that make batches ahead; 0 makes each when asked.

    Yields:
        ``{"main": stream}`` with ``Dataset.read``'s arrays for B/n examples.

    Raises:
        InputError: no such split, ``indices`` is empty, or the batch does not divide over the processes.
    """
    feed = Feed([Part(dataset, split, indices)], batch_size, seed)
    return streams({"main": feed}, start, stop, shard, workers)


def streams(
    feeds: dict[str, Feed], start: int, stop: int, shard: tuple[int, int] = (0, 1), workers: int = 2
) -> Iterator[Batch]:
    """The batches of steps ``start`` ... ``stop - 1`` of several streams side by side.

    Args:
        feeds: each stream by its name.
        shard: (i, n): this process is the i-th of n and gets its rows of each stream's global batch.
        workers: threads that make batches ahead; 0 makes each when asked.

    Yields:
        ``{name: stream}``.

    Raises:
        InputError: a stream's batch does not divide over the processes.
    """
    own = {name: feed.rows(shard) for name, feed in feeds.items()}

    def make(step: int) -> Batch:
        return {name: feed.read(step, own[name]) for name, feed in feeds.items()}

    return _ahead(make, start, stop, workers)


def sweep(
    dataset: Dataset,
    split: str,
    batch_size: int,
    indices: np.ndarray | None = None,
    shard: tuple[int, int] = (0, 1),
    workers: int = 2,
    crop: tuple[int, ...] | None = None,
) -> Iterator[Batch]:
    """Every example once, in order; the last batch is filled with copies of the last example at ``weight`` 0.

    That is exact whatever the batch size; without its last batch a sweep would leave out scans, and others at another size.

    Args:
        batch_size: of the global batch; every batch has it, so that one compiled function serves all.
        indices: sweeps these examples instead, in the order given.
        shard: as for ``batches``; all processes get the same number of batches.
        crop: size of the box at the centre of each, array order; None is all of it.

    Yields:
        ``{"main": stream}`` as ``batches`` does.

    Raises:
        InputError: the split is missing, or the batch does not divide over the processes.
    """
    members = np.arange(dataset.size(split)) if indices is None else np.asarray(indices)
    box = None if crop is None else Crop(tuple(crop))
    own = rows(batch_size, shard)

    def make(number: int) -> Batch:
        position = np.arange(number * batch_size, (number + 1) * batch_size)[own]
        stream = dataset.read(split, members[np.minimum(position, len(members) - 1)], box)
        stream["weight"] = (position < len(members)).astype(np.float32)
        return {"main": stream}

    return _ahead(make, 0, -(-len(members) // batch_size), workers)


def _ahead(make: Callable[[int], Batch], start: int, stop: int, workers: int) -> Iterator[Batch]:
    if start >= stop:
        return iter(())
    ahead = max(AHEAD, workers) if workers else 0
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=ahead)
    return iter(grain.MapDataset.range(start, stop).map(make).to_iter_dataset(options))
