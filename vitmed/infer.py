"""A run opened for use: weights restored, input prepared by the recipe, and answers in compiled batches."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from vitmed import config as configs
from vitmed.data import crops, loader
from vitmed.data.crops import Crop
from vitmed.data.dataset import Dataset
from vitmed.data.keys import example_keys
from vitmed.data.structures import class_table, structures_of
from vitmed.errors import InputError
from vitmed.models.build import ModelConfig
from vitmed.models.patches import at, brightest, grid, patchify, unpatchify
from vitmed.models.sliding import blended
from vitmed.objectives import masking, registry, supervised
from vitmed.objectives.classifier import Classifier
from vitmed.objectives.interface import Spec
from vitmed.objectives.mae import Autoencoder, patch_statistics
from vitmed.objectives.segmentation import Segmentation
from vitmed.runs import folder, load
from vitmed.scans.layout import UNMARKED
from vitmed.scans.recipe import Recipe, normalise, to_units

BATCH = 128
# At most in a batch: tokens of a ViT, a gigabyte or two of attention scores, and voxels where activations are of full
# resolution, which are those of masks and a CNN's.
TOKENS = 2**15
VOXELS = 2**20
_TICK = 8  # batches between two ticks of a progress bar
SAME_SPACING = 1e-3  # spacings that differ by less, relatively, are one, as in a datasheet
EVALUATION_SEED = 0  # masks are a function of the example alone


class Model:
    """A trained run, ready to be asked. Made by ``Model.open``.

    Attributes:
        run: the run's folder.
        config: its resolved config.
        recipe: how its input is prepared.
        datasheet: of the dataset it was trained on.
        params: parameters as NumPy; the moving average where the run kept one.
        which: the checkpoint they come from.
    """

    def __init__(self, run: Path, config: dict, recipe: Recipe, datasheet: dict, params: dict, which: str):
        self.run, self.config, self.recipe, self.datasheet = run, config, recipe, datasheet
        self.params, self.which = params, which
        self._model = configs.build(ModelConfig, config["model"], "config.model")
        self._spec = Spec.of(recipe, datasheet)
        self._on_device = jax.device_put(params)
        self._compiled: dict[str, Callable] = {}

    @classmethod
    def open(cls, run: str | Path, which: str = "last") -> "Model":
        """Opens a run folder.

        Args:
            which: "last" or "best" checkpoint.

        Raises:
            InputError: the folder is no run, or has no checkpoint yet.
            MachineError: no checkpoint of it can be read.
        """
        path = folder.locate(run)
        return cls(
            path,
            folder.config_of(path),
            folder.recipe_of(path),
            folder.datasheet_of(path),
            load(path, which),
            which,
        )

    @property
    def dataset_path(self) -> str:
        """Where the dataset lay that the run was trained on."""
        return self.config["data"]["path"]

    @property
    def crop(self) -> tuple[int, ...] | None:
        """Size of the box at the centre of each scan that the model is asked about; None is the whole scan."""
        return self.recipe.size if self.config["data"].get("crop") else None

    @property
    def batch(self) -> int:
        """How many scans, or windows of them, are asked about at once: as many as their size leaves memory for."""
        size, patch = self.recipe.size, self._model.patch_size
        if patch and not self.gives_masks:
            most = TOKENS // math.prod(grid(size, patch))
        else:
            most = VOXELS // math.prod(size)
        return max(1, min(BATCH, most))

    def stretches(self, count: int) -> Iterator[np.ndarray]:
        """Indices of ``count`` examples, a few batches at a time: what is done between two ticks of a progress bar."""
        stride = _TICK * self.batch
        for start in range(0, count, stride):
            yield np.arange(start, min(start + stride, count))

    @property
    def objective(self) -> str:
        """Name of the run's objective."""
        return self.config["objective"]["name"]

    @property
    def order(self) -> list[str]:
        """Of a run that learned ordered classes, their names from the lowest rank to the highest; else []."""
        return list(self.config["objective"].get("order", ()))

    @property
    def structures(self) -> list[str]:
        """Names of what the masks of its training set hold: the k-th is class k of its own masks, from 1."""
        return [name for name, _ in self._spec.structures]

    @property
    def gives_masks(self) -> bool:
        """Whether the run learned from masks and gives some."""
        settings = self.config["objective"].to_dict()
        # Weights that were published have an objective that is none of ours.
        return settings["name"] in registry.OBJECTIVES and registry.section(settings).of_masks

    @property
    def has_head(self) -> bool:
        """Whether the run learned from labels and gives scores."""
        return "head" in self.params

    def features(self, dataset: Dataset, split: str, indices: np.ndarray | None = None) -> np.ndarray:
        """Pooled features of the encoder, ``(n, D)`` float32, in the split's order (or that of ``indices``)."""
        return self._sweep("features", self._classifier().features, dataset, split, indices)

    def logits(self, dataset: Dataset, split: str, indices: np.ndarray | None = None) -> np.ndarray:
        """Scores of the head, ``(n, K)`` float32, in the split's order (or that of ``indices``).

        Raises:
            InputError: a run without a head.
        """
        if not self.has_head:
            raise InputError(
                f"{self.run} is a {self.objective!r} run, which gives no scores; fine-tune it first with configs/finetune_classify.py"
            )
        return self._sweep("logits", self._classifier().logits, dataset, split, indices)

    def segment(
        self, dataset: Dataset, split: str, indices: np.ndarray | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The likeliest class of every voxel, one example at a time in the order of ``probabilities``.

        Yields:
            The example's index in the split, and (*S) uint8: 0 background, k the k-th of ``structures``.

        Raises:
            InputError: as ``probabilities``.
        """
        for index, probability in self.probabilities(dataset, split, indices):
            yield index, probability.argmax(axis=-1).astype(np.uint8)

    def probabilities(
        self, dataset: Dataset, split: str, indices: np.ndarray | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Class probabilities on the dataset's grid, one example at a time in the split's order (or of ``indices``).

        A model that was trained on crops goes over the scan in overlapping windows (``vitmed.models.sliding``).

        Yields:
            The example's index in the split, and (*S, 1 + K) float32, the background's first.

        Raises:
            InputError: a run that learned no masks, or a dataset that does not fit it or whose masks hold other
                structures.
        """
        if not self.gives_masks:
            raise InputError(
                f"{self.run} is a {self.objective!r} run, which gives no masks; fine-tune it first with configs/finetune_segment.py"
            )
        self.check(dataset, whole=False)
        theirs = [name for name, _ in structures_of(dataset.datasheet)]
        if dataset.has_masks and theirs != self.structures:
            raise InputError(
                f"the masks of {dataset.path} hold {', '.join(theirs)}, but the run {self.run} learned "
                f"{', '.join(self.structures)}; give a dataset ingested with the same structures"
            )
        members = np.arange(dataset.size(split)) if indices is None else np.asarray(indices)
        network = Segmentation(self._model, self._spec)
        if "masks" not in self._compiled:
            self._compiled["masks"] = jax.jit(lambda params, x: jax.nn.softmax(network.logits(params, x)))
        compiled, window = self._compiled["masks"], self.recipe.size
        scans = (
            normalise(stream["image"], stream["scale"], stream["offset"], self.recipe)[0]
            for stream in (batch["main"] for batch in loader.sweep(dataset, split, 1, indices=members))
        )
        made = blended(scans, lambda x: compiled(self._on_device, x), window, self.batch)
        for index, probability in zip(members, made, strict=True):
            yield int(index), probability

    def read(self, dataset: Dataset, split: str, indices: np.ndarray) -> dict:
        """Examples as ``Dataset.read`` gives them, of the size that the model is fed."""
        return dataset.read(split, indices, None if self.crop is None else Crop(self.crop))

    def reconstruct(self, stream: dict) -> dict[str, np.ndarray]:
        """What a masked autoencoder makes of what it is not shown.

        Where the target was normalised within each patch, the prediction is put back on the patch's own mean
        and deviation (known here from the image), which is how MAE's figures are made; visible patches are
        pasted in as they are.

        Args:
            stream: arrays as ``read`` gives them.

        Returns:
            ``image``, ``masked`` (hidden patches nan) and ``reconstruction``, each ``(B, *S, C)`` in the recipe's
            unit, and ``mask`` ``(B, *S)``, 1 where hidden.

        Raises:
            InputError: a run that is no masked autoencoder.
        """
        if "decoder" not in self.params:
            raise InputError(
                f"{self.run} is a {self.objective!r} run, which reconstructs nothing; give one trained by configs/pretrain_mae.py"
            )
        patch = self._model.patch_size
        cells = grid(self.recipe.size, patch)
        network = Autoencoder(self._model, self._spec)
        settings = registry.section(self.config["objective"].to_dict())
        # Beside other losses the masked one has a section of its own.
        settings = getattr(settings, "masked", settings)

        def run(params, stream):
            image = self._prepared(stream)
            keys = example_keys(jax.random.key(EVALUATION_SEED), stream["example"])
            patches = patchify(image, patch)
            places = brightest(image, patch, network.brightest)
            counted = masking.counted(settings, {**stream, "image": image}, self._spec, patch)
            counted = None if counted is None else at(counted, places)
            mask = masking.draw(settings, keys, cells, counted, places)
            predicted, seen, hidden = network.predict(params, image, mask), at(patches, places), mask.hidden
            if settings.target == "patch":
                mean, deviation = patch_statistics(seen)
                predicted = predicted * deviation + mean
            pasted = jax.numpy.where(hidden[..., None], predicted, seen)
            if places is not None:  # what takes no part is neither hidden nor predicted
                each = jax.numpy.arange(len(patches))[:, None], places
                pasted = patches.at[each].set(pasted)
                hidden = jax.numpy.zeros(patches.shape[:2], bool).at[each].set(hidden)
            wide = jax.numpy.broadcast_to(hidden[..., None], patches.shape)
            return (
                image,
                unpatchify(pasted, cells, patch, self.recipe.channels),
                unpatchify(wide, cells, patch, self.recipe.channels),
            )

        image, made, hidden = jax.device_get(jax.jit(run)(self._on_device, stream))
        image, made = (np.clip(to_units(x, self.recipe), *self.recipe.window) for x in (image, made))
        return {
            "image": image,
            "masked": np.where(hidden, np.nan, image),
            "reconstruction": made,
            "mask": hidden[..., 0].astype(np.uint8),
        }

    def check(self, dataset: Dataset, whole: bool = True) -> None:
        """InputError, with both sides named, where the dataset is not what this run's model was made for.

        Args:
            whole: whether a box of the size that the model is fed must lie within its scans, where it learned crops.
        """
        recipe = dataset.recipe()
        # What is stored is not cut to any window: which one it is seen through is the run's choice.
        if recipe.unit == self.recipe.unit:
            recipe = recipe.through(self.recipe.window)
        differences = dataclasses.replace(self.recipe, patch_size=None).differences(recipe)
        if self.crop is not None and not differences:
            if whole:
                crops.check(self.crop, recipe.size, str(dataset.path))
        elif tuple(recipe.size) != tuple(self.recipe.size):
            differences.append(f"size is {self.recipe.size} here and {recipe.size} there")
        if differences:
            raise InputError(
                f"dataset {dataset.path} does not fit the run {self.run}: {'; '.join(differences)} "
                "(here: the run, there: the dataset)"
            )

    def beside(self, dataset: Dataset) -> list[str]:
        """What should be said of a dataset that fits: its voxels may be of another size than those learned from."""
        own, theirs = self.recipe.spacing, dataset.recipe().spacing
        if own is None or theirs is None or np.allclose(own, theirs, rtol=SAME_SPACING):
            return []
        theirs, own = (" x ".join(f"{step:g}" for step in spacing) for spacing in (theirs, own))
        return [f"Voxels of {dataset.path} are of {theirs} mm, those that the run learned from of {own} mm."]

    def _classifier(self) -> Classifier:
        settings = registry.section(self.config["objective"].to_dict())
        if isinstance(settings, supervised.Config):
            return supervised.classifier(settings, self._model, self._spec)
        return Classifier(self._model, self._spec)

    def _prepared(self, stream: dict) -> jax.Array:
        return normalise(stream["image"], stream["scale"], stream["offset"], self.recipe)

    def _sweep(
        self, name: str, function: Callable, dataset: Dataset, split: str, indices: np.ndarray | None
    ) -> np.ndarray:
        self.check(dataset)
        if name not in self._compiled:
            self._compiled[name] = jax.jit(lambda params, stream: function(params, self._prepared(stream)))
        compiled = self._compiled[name]
        count = dataset.size(split) if indices is None else len(indices)
        answers = []
        for batch in loader.sweep(dataset, split, self.batch, indices=indices, crop=self.crop):
            stream = {name: batch["main"][name] for name in ("image", "scale", "offset")}
            answers.append(compiled(self._on_device, stream))
        return np.concatenate(jax.device_get(answers))[:count]


def truth(dataset: Dataset, split: str, index: int) -> np.ndarray | None:
    """The mask of an example in the classes of a segmentation: (*S) uint8, 0 background, k the k-th structure.

    Where nobody has looked it is UNMARKED (255); None where nobody has looked at all.

    Raises:
        InputError: structures that overlap.
    """
    if not dataset.has_masks:
        return None
    mask = class_table(structures_of(dataset.datasheet))[dataset.record(split, index)["mask"]]
    return None if (mask == UNMARKED).all() else mask
