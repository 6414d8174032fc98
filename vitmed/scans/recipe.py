"""The recipe: how a model's input was prepared, saved beside its weights and checked before they are used.

A stored scan is integers with a ``scale`` and an ``offset`` per channel that lead to *units*: Hounsfield
units for CT, and for every other modality a relative scale on which 0..1 is the scan's own range (the
stored range or window for X-ray and ultrasound; the 0.5th to 99.5th percentile of the foreground for MR,
where intensity has no absolute meaning). The model sees units clipped to ``window`` and standardised.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np

from vitmed.errors import InputError

MODALITIES = ("xray", "ct", "mr", "ultrasound", "unknown")
# (center, width) in HU, as radiologists set them: Radiopaedia, "Windowing (CT)" (doi.org/10.53347/rID-52108).
WINDOWS = {
    "lung": (-600.0, 1500.0),
    "mediastinum": (50.0, 350.0),
    "abdomen": (50.0, 400.0),
    "liver": (30.0, 150.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
    "stroke": (40.0, 40.0),
}
EXPECTED = f"give {', '.join(WINDOWS)}, or the two ends in HU, the lower one first, such as (-160.0, 240.0)"

_ALIASES = {
    "xray": ("xray", "x-ray", "x ray", "cr", "dx", "rg", "xr", "radiograph", "cxr", "mg", "mammography"),
    "ct": ("ct", "cat", "computed tomography"),
    "mr": ("mr", "mri", "magnetic resonance"),
    "ultrasound": ("ultrasound", "us", "echo", "sonography"),
    "unknown": ("unknown", ""),
}
_BY_ALIAS = {alias: name for name, aliases in _ALIASES.items() for alias in aliases}


def modality(text: str) -> str:
    """The canonical name of a modality given in any usual way ("MRI", "DX", "x-ray", DICOM codes).

    Raises:
        InputError: a name that is none of them.
    """
    name = _BY_ALIAS.get(str(text).strip().lower())
    if name is None:
        raise InputError(f"modality {text!r} is not known; use one of {', '.join(MODALITIES)}")
    return name


def modality_or_unknown(code: str) -> str:
    """The same of a header's code; "unknown" of one that has no conventions of its own here (PT, NM, OPT ...) or is empty."""
    try:
        return modality(code or "unknown")
    except InputError:
        return "unknown"


def unit_of(modality: str) -> str:
    """The unit a modality is stored in: ``"HU"`` for CT, else ``"relative"``."""
    return "HU" if modality == "ct" else "relative"


def window_of(modality: str) -> tuple[float, float]:
    """The default clipping window, in the modality's unit: lung to bone for CT, the whole range otherwise."""
    return (-1000.0, 1000.0) if modality == "ct" else (0.0, 1.0)


def ends_of(window: str | tuple[float, ...]) -> tuple[float, float]:
    """(low, high) of a window given by its name in ``WINDOWS``, or by these two themselves.

    Raises:
        ValueError: neither; it reads on from the key that gave it.
    """
    if isinstance(window, str):
        if window not in WINDOWS:
            raise ValueError(f"window is {window!r}; {EXPECTED}")
        center, width = WINDOWS[window]
        return center - width / 2, center + width / 2
    if len(window) != 2 or not (np.isfinite(window).all() and window[0] < window[1]):
        raise ValueError(f"window is {tuple(window)}; {EXPECTED}")
    return tuple(map(float, window))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a later stage must know to feed a model rightly.

    Attributes:
        modality: one of ``MODALITIES``.
        channels: number of channels C.
        size: spatial size fed to the model, array order; its length is the dimension (2 or 3).
        spacing: millimetres per voxel, array order, or None where unknown or mixed.
        unit: ``"HU"`` or ``"relative"``.
        window: (low, high) to which units are clipped.
        mean: per channel, over the training split after clipping; the middle of a window that was chosen.
        std: per channel, likewise; half the width of a window that was chosen.
        patch_size: the model's patch, array order, or None for a model without patches.
        model: the resolved model section of the config, or None.
    """

    modality: str
    channels: int
    size: tuple[int, ...]
    spacing: tuple[float, ...] | None
    unit: str
    window: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    patch_size: tuple[int, ...] | None = None
    model: dict | None = None

    def to_json(self) -> str:
        """The recipe as the text of ``recipe.json``."""
        return json.dumps({"format": 1, **dataclasses.asdict(self)}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, path: str | Path) -> "Recipe":
        """Reads ``recipe.json``.

        Raises:
            InputError: no such file, or not a recipe of format 1.
        """
        try:
            return cls.from_text(Path(path).read_text(), path)
        except FileNotFoundError:
            raise InputError(
                f"{path} does not exist; without its recipe a run cannot be fed rightly"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not a recipe ({type(error).__name__}: {error})") from None

    @classmethod
    def from_text(cls, text: str, source: str | Path) -> "Recipe":
        """The recipe of which ``text`` is the ``to_json``; ``source`` is where it stands, for messages.

        Raises:
            InputError: not a recipe of format 1.
        """
        try:
            values = json.loads(text)
            if values.pop("format") != 1:
                raise InputError(f"{source} is of a newer format than this vitmed reads; update vitmed")
            for key in ("size", "spacing", "window", "mean", "std", "patch_size"):
                values[key] = None if values[key] is None else tuple(values[key])
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{source} is not a recipe ({type(error).__name__}: {error})") from None

    def through(self, window: tuple[float, float]) -> "Recipe":
        """The recipe for what is seen through another window, whose ends become -1 and 1.

        The mean and the spread that a datasheet tells are of its own window, and what another one leaves has others: 0
        and 1 are the window's middle and its half instead, which need no pass over the data.
        """
        low, high = window
        mean, std = ((value,) * self.channels for value in ((low + high) / 2, (high - low) / 2))
        return dataclasses.replace(self, window=window, mean=mean, std=std)

    def differences(self, other: "Recipe") -> list[str]:
        """Why a model made with this recipe cannot be used with ``other``, one clause a mismatch.

        Size, spacing, mean and std may differ: positions are computed for any grid, and standardising is
        the data's own affair. What the numbers mean (modality, unit, window) and a token's shape may not.
        """
        pairs = [
            ("modality", self.modality, other.modality),
            ("channels", self.channels, other.channels),
            ("dimension", f"{len(self.size)}D", f"{len(other.size)}D"),
            ("unit", self.unit, other.unit),
            ("window", tuple(map(float, self.window)), tuple(map(float, other.window))),
        ]
        if self.patch_size is not None and other.patch_size is not None:
            pairs.append(("patch_size", tuple(self.patch_size), tuple(other.patch_size)))
        return [f"{name} is {mine} here and {theirs} there" for name, mine, theirs in pairs if mine != theirs]


def normalise(image, scale, offset, recipe: Recipe):
    """Stored integers to the model's input, for NumPy and JAX arrays alike (runs inside the compiled step).

    Args:
        image: (..., *S, C) stored integers.
        scale: (..., C) with the leading axes of ``image``.
        offset: (..., C) likewise.
        recipe: gives window, mean and std; ``recipe.size`` gives the number of spatial axes.

    Returns:
        (..., *S, C) float32: ``(clip(image * scale + offset, window) - mean) / std``.
    """
    units = image.astype(np.float32) * _over_space(scale, recipe) + _over_space(offset, recipe)
    low, high = recipe.window
    return (units.clip(low, high) - np.asarray(recipe.mean, np.float32)) / np.asarray(recipe.std, np.float32)


def to_units(normalised, recipe: Recipe):
    """The inverse of ``normalise`` up to clipping: (..., *S, C) in the recipe's unit, for pictures."""
    return normalised * np.asarray(recipe.std, np.float32) + np.asarray(recipe.mean, np.float32)


def _over_space(per_channel, recipe: Recipe):
    lead, channels = per_channel.shape[:-1], per_channel.shape[-1]
    return per_channel.reshape(*lead, *(1,) * len(recipe.size), channels).astype(np.float32)
