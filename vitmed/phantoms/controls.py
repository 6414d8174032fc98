"""Controls: what can be told from simulated scans without learning to see.

A phantom that leaks its label (by brightness, by site, by a file's order) makes every model look good. These
are cheap enough to run on every set: permuted labels must give an AUROC of .5, and random features, principal
components and a bag of patches say how far one gets without a trained network.

`on_phantoms(modality, size)`, 200 scans of 100 patients of seed 0, where an AUROC's standard error is about
.04 (permuted labels, random features, principal components, bag of patches): X-ray 32 x 32 .56, .50, .47,
.50; CT .52, .53, .54, .48; MR .52, .52, .62, .51; ultrasound .58, .54, .56, .68, whose lesions are dark
patches that a bag may well count; tomosynthesis 16 x 16 x 16 .55, .52, .44, .58; CT .51, .49, .46, .51.
"""

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vitmed.errors import InputError
from vitmed.phantoms.example import check, example


def auroc(features, labels, patients, folds: int = 5, seed: int = 0, inverse_penalty: float = 0.01) -> float:
    """The cross-validated AUROC of logistic regression on features (n, d); macro one-vs-rest over classes.

    Takes labels (n,) and patients (n,): all scans of a patient are in one fold. Scores are pooled over folds.
    """
    features, labels = np.asarray(features, float), np.asarray(labels)
    names = np.unique(labels)
    scores = np.zeros((len(labels), len(names)))
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for train, test in split.split(features, labels, patients):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=500))
        model.fit(features[train], labels[train])
        columns = np.searchsorted(names, model.classes_)
        scores[np.ix_(test, columns)] = model.predict_proba(features[test])
    return float(np.mean([roc_auc_score(labels == name, scores[:, i]) for i, name in enumerate(names)]))


def permuted(labels, patients, seed: int = 0) -> np.ndarray:
    """The labels (n,) dealt anew: each patient with several scans gets another's labels, as one block.

    Blocks keep the correlation within a patient, without which the control would be too easy to pass.
    Patients exchange with those that have as many scans.
    """
    labels, patients = np.asarray(labels), np.asarray(patients)
    generator = np.random.Generator(np.random.Philox(seed))
    dealt = labels.copy()
    names, counts = np.unique(patients, return_counts=True)
    for count in np.unique(counts):
        peers = names[counts == count]
        for name, other in zip(peers, generator.permutation(peers), strict=True):
            dealt[patients == name] = labels[patients == other]
    return dealt


def flat(images) -> np.ndarray:
    """Images (n, *S) as rows (n, pixels), each standardised by its own mean and deviation."""
    rows = np.asarray(images, np.float32).reshape(len(images), -1)
    return (rows - rows.mean(1, keepdims=True)) / (rows.std(1, keepdims=True) + 1e-6)


def random_features(images, dimension: int = 256, seed: int = 0) -> np.ndarray:
    """An untrained layer: relu of random projections, (n, dimension)."""
    rows = flat(images)
    generator = np.random.Generator(np.random.Philox(seed))
    weights = generator.standard_normal((rows.shape[1], dimension), np.float32) / np.sqrt(rows.shape[1])
    return np.maximum(rows @ weights, 0)


def principal_components(images, dimension: int = 64, seed: int = 0) -> np.ndarray:
    """The leading principal components of the pixels, (n, dimension at most).

    No more than a quarter as many as there are scans: standardised, as many as scans would put all of them
    equally far apart, and nothing could be found in them.
    """
    rows = flat(images)
    dimension = min(dimension, max(1, len(rows) // 4), rows.shape[1])
    return PCA(dimension, svd_solver="randomized", random_state=seed).fit_transform(rows)


def check_patch(size, patch: int) -> None:
    """InputError where a size is not made of patches of `patch` a side."""
    if any(n % patch for n in size):
        raise InputError(f"size {tuple(size)} is not made of patches of {patch}: give multiples of {patch}")


def bag_of_patches(images, patch: int = 8, words: int = 64, seed: int = 0) -> np.ndarray:
    """How often each of `words` typical patches occurs in a scan, (n, words): everything local, nothing of
    where.

    InputError where the images' sizes are not multiples of `patch`.
    """
    images = np.asarray(images, np.float32)
    count, *size = images.shape
    check_patch(size, patch)
    split = [part for n in size for part in (n // patch, patch)]
    dimension = len(size)
    order = [0, *(1 + 2 * i for i in range(dimension)), *(2 + 2 * i for i in range(dimension))]
    patches = flat(images).reshape(count, *split).transpose(order).reshape(-1, patch**dimension)
    kmeans = MiniBatchKMeans(words, n_init=3, batch_size=4096, random_state=seed).fit(patches)
    word = kmeans.labels_.reshape(count, -1)
    return np.stack([np.bincount(row, minlength=words) for row in word]) / word.shape[1]


def controls(images, labels, patients, seed: int = 0, patch: int = 8) -> dict[str, float]:
    """The AUROC of every control on images (n, *S) with labels (n,) and patients (n,)."""
    components = principal_components(images, seed=seed)
    return {
        "permuted labels": auroc(components, permuted(labels, patients, seed), patients, seed=seed),
        "random features": auroc(random_features(images, seed=seed), labels, patients, seed=seed),
        "principal components": auroc(components, labels, patients, seed=seed),
        "bag of patches": auroc(bag_of_patches(images, patch, seed=seed), labels, patients, seed=seed),
    }


def on_phantoms(
    modality: str, size=None, patients: int = 100, scans_per_patient: int = 2, seed: int = 0
) -> dict[str, float]:
    """The AUROC of every control on simulated scans of any modality, 2D or 3D; the size is in array order.

    Patches are of 8 pixels a side in 2D and of 4 in 3D. InputError for what is not simulated, or a size that
    is not made of such patches.
    """
    size = check(modality, size)
    patch = 8 if len(size) == 2 else 4
    check_patch(size, patch)
    made = [example(modality, seed, p, s, size) for p in range(patients) for s in range(scans_per_patient)]
    images = np.stack([m.picture.image for m in made])
    labels, names = np.array([m.label for m in made]), np.array([m.patient for m in made])
    return controls(images, labels, names, seed, patch)
