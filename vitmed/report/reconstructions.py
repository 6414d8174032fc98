"""Input, what the model saw of it, and what it made of that: a masked autoencoder's examples for the page."""

from pathlib import Path

import numpy as np

from vitmed.data.dataset import Dataset
from vitmed.report.pictures import data_uri, picture
from vitmed.runs import step_of


def triples(run: Path, dataset: Dataset, split: str, count: int = 6) -> list[dict[str, str]] | None:
    """``count`` scans at even distances in ``split``: ``id`` and pictures ``input``, ``masked``, ``made``.

    Masks are those that the model is validated with, a function of the scan alone. None where the run has no checkpoint
    yet.

    Raises:
        InputError: the run is no masked autoencoder, or the dataset is not of its kind.
    """
    from vitmed.infer import Model  # and JAX with it, 400 MB that the page of a dataset does without

    if step_of(run) is None:
        return None
    model = Model.open(run)
    model.check(dataset)
    chosen = np.unique(np.linspace(0, dataset.size(split) - 1, count).astype(int))
    made = model.reconstruct(model.read(dataset, split, chosen))
    low, high = model.recipe.window
    ids = dataset.ids(split)
    return [
        {
            "id": ids[i],
            "input": data_uri(picture((image - low) / (high - low))),
            "masked": data_uri(picture((image - low) / (high - low), mask)),
            "made": data_uri(picture((guess - low) / (high - low))),
        }
        for i, image, mask, guess in zip(
            chosen, made["image"], made["mask"], made["reconstruction"], strict=True
        )
    ]
