"""vitmed: from a folder of unlabelled scans to an evaluated model, with Vision Transformers in JAX."""

__version__ = "0.1.0"
