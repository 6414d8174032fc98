"""Stored records to NumPy: a ``tf.train.Example`` parsed by the features TFDS wrote down, without TensorFlow.

TFDS's own NumPy decoder (``deserialize_example_np``) costs several times the copy it makes, because it
resolves nested and ragged features by regular expression for every example. vitmed's features are flat
tensors, so what has to be done for each is settled once, when the dataset is opened.
"""

import zlib
from collections.abc import Callable, Iterable, Sequence

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
        self._shapes = {name: features[name].shape for name in self.names}
        self._numbers = {name: _numbers(name, self.dtypes[name]) for name in self.names}
        self._decode = {name: _decoder(name, features[name]) for name in self.names}

    def __call__(
        self, record: bytes, names: Iterable[str] | None = None, lists: Iterable[str] = ()
    ) -> dict[str, np.ndarray | str | list]:
        """Decodes the features called ``names`` (all by default) of one record, and those of ``lists`` to lists.

        Of a few numbers a list costs a third of an array. ``stacked`` makes one array of those of many records.
        """
        stored = tf_example_pb2.Example.FromString(record).features.feature
        values = {name: self._decode[name](stored) for name in (self.names if names is None else names)}
        return values | {name: self._numbers[name](stored) for name in lists}

    def stacked(self, name: str, lists: Sequence[list]) -> np.ndarray:
        """(B, *shape) of what the feature ``name``, whose shape is fixed, was decoded to as lists."""
        return np.array(lists, self.dtypes[name]).reshape(len(lists), *self._shapes[name])


def _is_text(feature) -> bool:
    return np.dtype(feature.np_dtype).kind in "OSU"


def _numbers(key: str, dtype: np.dtype) -> Callable[[dict], list]:
    if dtype.kind == "f":
        return lambda stored: stored[key].float_list.value[:]
    return lambda stored: stored[key].int64_list.value[:]


def _decoder(name: str, feature) -> Decode:
    if _is_text(feature):
        return lambda stored: stored[name].bytes_list.value[0].decode()
    dtype = np.dtype(feature.np_dtype)
    encoding = feature.to_json_content().encoding
    # TFDS writes the shape beside the values only where more than one axis varies.
    written = sum(axis is None for axis in feature.shape) > 1
    shape = tuple(-1 if axis is None else axis for axis in feature.shape)
    key = f"{name}/value" if written else name
    numbers = _numbers(key, dtype)

    def values(stored) -> np.ndarray:
        if encoding in ("bytes", "zlib"):
            data = stored[key].bytes_list.value[0]
            return np.frombuffer(zlib.decompress(data) if encoding == "zlib" else data, dtype)
        # A list first: NumPy would ask protobuf's container for its values one by one, three times as slowly.
        return np.array(numbers(stored), dtype)

    if written:
        return lambda stored: values(stored).reshape(tuple(stored[f"{name}/shape"].int64_list.value))
    return lambda stored: values(stored).reshape(shape)
