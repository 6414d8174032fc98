"""Noise as it enters: photons are counted (Poisson), receiver coils hear a thermal hiss (complex Gaussian).

Every function takes its random generator, so that what is drawn is a function of the generator's key alone.
"""

import numpy as np
from scipy.ndimage import gaussian_filter


def photons(transmitted: np.ndarray, dose: float, generator: np.random.Generator, scatter=None) -> np.ndarray:
    """Line integrals as a photon-counting detector measures them: -log(counts / dose).

    Takes the transmitted fraction (0..1), `dose` photons an element without a patient, and optionally an
    expected fraction of scattered photons to be added. The variance of the result is about
    1 / (dose * transmitted): half a photon stands in where none is counted.
    """
    expected = dose * (transmitted if scatter is None else transmitted + scatter)
    return -np.log(np.maximum(generator.poisson(expected), 0.5) / dose)


def scattered(transmitted: np.ndarray, ratio: float, width: float) -> np.ndarray:
    """The expected scatter: `ratio` of the primary fraction, smeared by a Gaussian of `width` elements (last
    2 axes)."""
    sigma = (0,) * (transmitted.ndim - 2) + (width, width)
    return ratio * gaussian_filter(transmitted, sigma, mode="nearest")


def complex_gaussian(shape, sigma: float, generator: np.random.Generator) -> np.ndarray:
    """Complex noise whose real and imaginary parts each have standard deviation `sigma`."""
    return sigma * (generator.standard_normal(shape) + 1j * generator.standard_normal(shape))
