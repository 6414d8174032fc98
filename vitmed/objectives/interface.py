"""What an objective is: three pure functions, and the shapes they are made for.

``init(key, spec)``                                      -> (params, memory)
``loss(params, memory, batch, key, axis, train)``        -> (loss, (metrics, memory))
``after_update(params, memory, step)``                   -> memory

``params`` is ``{"encoder": ..., "head" | "decoder" | ...: ...}`` and the encoder's tree is the same in every
objective, so that any run can start any other. ``memory`` is what is kept beside the parameters (a teacher,
centres); the training loop carries it in its state and saves it. A ``memory["teacher"]`` that averages parts of the
parameters names them as these are named: by it the run is used and judged (``vitmed.runs.averaged``).

``batch`` is ``{stream: {...}}`` with ``image`` already normalised and augmented, float32 ``(B, *S, C)``. ``key`` is
the step's key: whatever is random is drawn from it folded with each example's identity, never from its place in the
batch. With ``train=False`` the key is a constant, so masks are a function of the example alone.

An objective's ``Config`` is an ``ObjectiveConfig``.

``metrics`` is ``{name: metric}``. A plain number is a mean over the scans of the batch; what counts by anything else
(labels, voxels) is a tally (``vitmed.objectives.tallies``), so that validation gives the same however scans are batched.

Where the encoder came from another run, ``after_transfer(params, batches) -> params`` may fit the rest of the
parameters to it before the first step; ``batches`` sweeps what is trained on once. Most objectives need none.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from vitmed.data.structures import structures_of
from vitmed.objectives import tallies
from vitmed.scans.recipe import Recipe


@dataclass(frozen=True)
class ObjectiveConfig:
    """What an objective says, beside the keys of its config, to whoever feeds, trains and judges it.

    Attributes:
        labelled: it learns from labels or masks: ``main`` then holds the label budget's examples alone, and otherwise
            all, whatever their labels.
        of_masks: what it learns is a mask, a class a voxel.
        task: what it learns, where its config says so and does not leave it to the dataset.
        order: the names of the classes from the lowest rank to the highest, where they have ranks.
        streams: ``("main", "unlabelled")`` if it learns from a second stream (``config.data.unlabelled``), whose
            ``label`` and ``label_weight`` are ``(B, 0)``, and which has a ``mask`` only where ``excluded`` names
            structures to leave out. With ``train=False`` a batch holds ``main`` alone.
        excluded: these structures, which the masks of all datasets that are learned from must hold alike.
        averages: its teacher takes the place of ``config.optim.ema``, which must then be 0.
        finetunes: ``config.finetune`` may choose what of the parameters is trained; the loss is given plain ones all
            the same.
        drops_paths: False where it trains without stochastic depth, so that ``config.model.drop_path`` must be 0.
        class_weights: of each class in the loss; where they are a word the ``counts`` of a ``Spec`` are asked for.
        alignment: where it is not 0 and classes are drawn equally often, its ``frequencies`` are.
    """

    labelled: ClassVar[bool] = False
    of_masks: ClassVar[bool] = False
    task: ClassVar[str | None] = None
    order: ClassVar[tuple[str, ...]] = ()
    streams: ClassVar[tuple[str, ...]] = ("main",)
    excluded: ClassVar[tuple[str, ...]] = ()
    averages: ClassVar[bool] = False
    finetunes: ClassVar[bool] = False
    drops_paths: ClassVar[bool] = True
    class_weights: ClassVar[tuple[float, ...] | str] = ()
    alignment: ClassVar[float] = 0.0


@dataclass(frozen=True)
class Spec:
    """What the data looks like to a model, and how long it is learned from.

    Attributes:
        size: spatial size in array order, its length the dimension.
        channels: image channels.
        task: "multiclass", "multilabel", "regression", or None for a set without labels.
        outputs: what a head must give: classes (multiclass) or label columns (otherwise); 0 without labels.
        window: the low and the high end of the recipe's window as normalised values, a pair a channel; () is unknown.
        structures: (name, values) of what the masks hold, as ``vitmed.data.structures.structures_of`` orders them.
        steps: updates of the whole run, for what follows a schedule; 0 where nothing is trained.
        classes: names of the classes or label columns.
        counts: of the labelled examples that are trained on, how many show each class (or label), and how many do not;
            of masks, how many voxels are of each class, the background's first, and how many are not. For an objective
            that weighs by it.
        frequencies: the share of each class among these examples, where batches do not show it since each class is drawn
            equally often (``config.data.sampling=balanced``); () is that batches show it.
        label_scale: the mean and the standard deviation of each label column of a regression, in its unit, among the
            labelled examples that are trained on; () is that numbers are learned as they are.
    """

    size: tuple[int, ...]
    channels: int
    task: str | None = None
    outputs: int = 0
    window: tuple[tuple[float, float], ...] = ()
    structures: tuple[tuple[str, tuple[int, ...]], ...] = ()
    steps: int = 0
    classes: tuple[str, ...] = ()
    counts: tuple[tuple[int, int], ...] = ()
    frequencies: tuple[float, ...] = ()
    label_scale: tuple[tuple[float, float], ...] = ()

    @property
    def deviations(self) -> np.ndarray:
        """``(K,)`` float32: what one is worth, in the unit of each label column, of what a regression learns."""
        return self._scale[1]

    def standardised(self, label: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
        """Labels ``(B, K)`` of a regression as they are learned: deviations from the mean."""
        means, deviations = self._scale
        return (label - means) / deviations

    @property
    def _scale(self) -> np.ndarray:
        return np.asarray(self.label_scale or ((0.0, 1.0),) * self.outputs, np.float32).T

    @classmethod
    def of(cls, recipe: Recipe, sheet: dict, steps: int = 0) -> "Spec":
        """What a run is made for whose input follows ``recipe``, on the dataset of the datasheet ``sheet``."""
        mean, std = np.asarray(recipe.mean), np.asarray(recipe.std)
        low, high = ((end - mean) / std for end in recipe.window)
        return cls(
            recipe.size,
            recipe.channels,
            sheet["task"],
            len(sheet["classes"] or ()),
            tuple(zip(low.tolist(), high.tolist())),
            tuple(structures_of(sheet)),
            steps,
            tuple(sheet["classes"] or ()),
        )


class Objective(NamedTuple):
    """The three functions, and the one that most do without; see this module's docstring."""

    init: Callable[[jax.Array, Spec], tuple[Any, Any]]
    loss: Callable[..., tuple[jax.Array, tuple[dict, Any]]]
    after_update: Callable[[Any, Any, jax.Array], Any]
    after_transfer: Callable[[Any, Iterator[dict]], Any] | None = None


def keep_memory(params: Any, memory: Any, step: jax.Array) -> Any:
    """``after_update`` of an objective whose memory does not follow the parameters."""
    return memory


def balanced(counts: Sequence[tuple[int, int]]) -> tuple[float, ...]:
    """Weights by which all classes together weigh the same: n / (K n_k), 1 on average; 1 of what is never shown.

    Args:
        counts: how many show each class, and how many do not.
    """
    present = sum(shown > 0 for shown, _ in counts)
    return tuple((shown + rest) / (present * shown) if shown else 1.0 for shown, rest in counts)


def rooted(counts: Sequence[tuple[int, int]]) -> tuple[float, ...]:
    """The roots of ``balanced``, scaled so that the weights of all that is shown are 1 on average.

    Args:
        counts: how many show each class, and how many do not; each shows one class.
    """
    roots = [weight**0.5 for weight in balanced(counts)]
    total = sum(shown for shown, _ in counts)
    mean = sum(root * shown for root, (shown, _) in zip(roots, counts)) / total if total else 1.0
    return tuple(root / mean for root in roots)


def check_class_weights(given: tuple[float, ...] | str) -> None:
    """ValueError where weights of classes, numbers or a word, would turn a class's loss round, or weigh nothing."""
    if given and not isinstance(given, str) and (min(given) < 0 or not any(given)):
        raise ValueError(f"class_weights is {given}; one of them must be positive, none negative")


def weighted_mean(values: jax.Array, weight: jax.Array, axis: str | None) -> jax.Array:
    """Mean of ``values`` by ``weight`` (same shape) over the global batch (``tallies.mean``); 0 where all weights are 0."""
    return tallies.mean(values, weight, axis).value
