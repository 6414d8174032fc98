"""Stored records to NumPy: a ``tf.train.Example`` parsed by the features TFDS wrote down, without TensorFlow.

TFDS's own NumPy decoder (``deserialize_example_np``) costs several times the copy it makes, because it
resolves nested and ragged features by regular expression for every example. vitmed's features are flat
tensors, so what has to be done for each is settled once, when the dataset is opened.
"""

import zlib
from collections.abc import Callable, Iterable

import numpy as np
from tensorflow_datasets.core.features import FeaturesDict
from tensorflow_datasets.proto import tf_example_pb2

Decode = Callable[[dict], np.ndarray | str]


class Decoder:
    """Turns serialised examples into dicts of arrays (and ``str`` for text features).

    Args:
        features: of a TFDS dataset; each a ``features.Tensor``, ``Scalar`` or ``Text``.
    """

    def __init__(self, features: FeaturesDict):
        self.names = tuple(features.keys())
        self.dtypes = {name: np.dtype(features[name].np_dtype) for name in self.names}
        self.texts = tuple(name for name in self.names if _is_text(features[name]))
        self._decode = {name: _decoder(name, features[name]) for name in self.names}

    def __call__(self, record: bytes, names: Iterable[str] | None = None) -> dict[str, np.ndarray | str]:
        """Decodes the features called ``names`` (all by default) of one record."""
        stored = tf_example_pb2.Example.FromString(record).features.feature
        return {name: self._decode[name](stored) for name in (self.names if names is None else names)}


def _is_text(feature) -> bool:
    return np.dtype(feature.np_dtype).kind in "OSU"


def _decoder(name: str, feature) -> Decode:
    if _is_text(feature):
        return lambda stored: stored[name].bytes_list.value[0].decode()
    dtype = np.dtype(feature.np_dtype)
    encoding = feature.to_json_content().encoding
    # TFDS writes the shape beside the values only where more than one axis varies.
    written = sum(axis is None for axis in feature.shape) > 1
    shape = tuple(-1 if axis is None else axis for axis in feature.shape)
    key = f"{name}/value" if written else name

    def values(stored) -> np.ndarray:
        if encoding in ("bytes", "zlib"):
            data = stored[key].bytes_list.value[0]
            return np.frombuffer(zlib.decompress(data) if encoding == "zlib" else data, dtype)
        numbers = stored[key].float_list if dtype.kind == "f" else stored[key].int64_list
        # A list first: NumPy would ask protobuf's container for its values one by one, three times as slowly.
        return np.array(numbers.value[:], dtype)

    if written:
        return lambda stored: values(stored).reshape(tuple(stored[f"{name}/shape"].int64_list.value))
    return lambda stored: values(stored).reshape(shape)
