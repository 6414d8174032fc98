"""Writing a dataset: a TFDS folder of ArrayRecord shards, made without TensorFlow.

Only flat tensors stored as bytes (and short float lists) are used, which TFDS encodes and decodes by itself;
``tfds.builder_from_directory(DATASET).as_data_source()`` opens the result.
"""

import contextlib
import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from vitmed import durable
from vitmed.data.annotations import TOLD

SHARD_BYTES = 256 * 2**20  # a shard is closed when it has grown past this
NAME = "scans"  # the prefix of every shard, whatever the folder is called, so that bytes do not depend on it

_DESCRIPTION = "Medical scans prepared by vitmed; datasheet.json tells what they are."


def features(
    size: tuple[int, ...], channels: int, dtype: np.dtype, outputs: int, masks: bool, chunked: bool = False
) -> tfds.features.FeaturesDict:
    """What an example holds.

    ``image`` (*S, C) stored integers; ``scale``, ``offset`` (C,) to units; ``spacing`` (n,) millimetres and
    ``affine`` (4, 4) from index (z, y, x, 1) to LPS millimetres, NaN unknown; ``grid`` (n + 1, n + 1) from index to
    that of the scan as it was read and turned, before it was resampled, cropped or padded; ``label`` and ``label_weight``
    (K,), weight 0 where the label is missing; ``mask`` (*S) where the set has masks, 255 where nobody has
    looked; ``example`` (2,), from which random keys are folded; ``id``, ``patient``, ``site`` and what else is
    ``TOLD`` of a scan, "" unknown; ``orientation``, the sides the file's own axes ran towards before they were
    turned ("LPI"; "" unknown; with ``grid`` it leads back to the file's own voxels, see ``vitmed.scans.writeback``); ``read_size`` and ``read_spacing`` (n,) as the file had them; ``exposed``, what
    its pixels may show of the person, by commas.

    Where images are stored in chunks (``vitmed.data.chunks``), ``chunks`` (2,) takes the place of ``image`` and
    ``mask``: the index of the first chunk within the split, and how many there are.
    """
    tensor = tfds.features.Tensor
    held = {
        "image": tensor(shape=(*size, channels), dtype=dtype, encoding="bytes"),
        "scale": tensor(shape=(channels,), dtype=np.float32),
        "offset": tensor(shape=(channels,), dtype=np.float32),
        "spacing": tensor(shape=(len(size),), dtype=np.float32),
        # As bytes: TFDS's plain encoding is a list of float32.
        "affine": tensor(shape=(4, 4), dtype=np.float64, encoding="bytes"),
        "grid": tensor(shape=(len(size) + 1,) * 2, dtype=np.float64, encoding="bytes"),
        "label": tensor(shape=(outputs,), dtype=np.float32),
        "label_weight": tensor(shape=(outputs,), dtype=np.float32),
        "example": tensor(shape=(2,), dtype=np.uint32),
        "id": tfds.features.Text(),
        "patient": tfds.features.Text(),
        "site": tfds.features.Text(),
        **{name: tfds.features.Text() for name in TOLD},
        "read_size": tensor(shape=(len(size),), dtype=np.int64),
        "read_spacing": tensor(shape=(len(size),), dtype=np.float32),
        "exposed": tfds.features.Text(),
        "orientation": tfds.features.Text(),
    }
    if masks:
        held["mask"] = tensor(shape=size, dtype=np.uint8, encoding="bytes")
    if chunked:
        held = {k: v for k, v in held.items() if k not in ("image", "mask")}
        held["chunks"] = tensor(shape=(2,), dtype=np.int64)
    return tfds.features.FeaturesDict(held)


def identity(scan: str) -> np.ndarray:
    """(2,) uint32 from a scan's id: the first 8 bytes of its BLAKE2b hash."""
    return np.frombuffer(hashlib.blake2b(scan.encode()).digest()[:8], "<u4").astype(np.uint32)


class Encoder:
    """Examples as the bytes of a record, which are those of TFDS's own encoder at a fraction of its time.

    Args:
        held: what an example holds: tensors, those of which several lengths are unknown encoded as "bytes", and texts.
    """

    def __init__(self, held: tfds.features.FeaturesDict):
        self._fields = []
        for name, feature in held.items():
            if isinstance(feature, tfds.features.Text):
                self._fields.append((name, None, None, "text"))
                continue
            stored = held.get_serialized_info()[name]
            if isinstance(stored, dict):  # the lengths lie beside the bytes
                self._fields.append((name, np.dtype(feature.np_dtype), tuple(feature.shape), "shaped"))
                continue
            stored = stored.np_dtype
            kind = {"f": "float_list", "u": "int64_list", "i": "int64_list"}.get(
                np.dtype(stored).kind, "bytes"
            )
            self._fields.append((name, np.dtype(feature.np_dtype), tuple(feature.shape), kind))

    def __call__(self, example: dict) -> bytes:
        """One record.

        Raises:
            ValueError: a value of another type or shape than its field, a field that is missing, or one too many.
        """
        if len(example) != len(self._fields):
            raise ValueError(f"an example holds {sorted(example)}, the set {[f[0] for f in self._fields]}")
        record = tf_example_pb2.Example()
        into = record.features.feature
        for name, dtype, shape, kind in self._fields:
            if name not in example:
                raise ValueError(f"an example has no {name}")
            value = example[name]
            if kind == "text":
                into[name].bytes_list.value.append(value.encode())
                continue
            fits = len(value.shape) == len(shape) and all(n in (m, None) for m, n in zip(value.shape, shape))
            if value.dtype != dtype or not fits:
                raise ValueError(f"{name} is {value.dtype} {value.shape}; {dtype} {shape} was expected")
            if kind == "shaped":
                into[f"{name}/shape"].int64_list.value.extend(value.shape)
                into[f"{name}/value"].bytes_list.value.append(value.tobytes())
            elif kind == "bytes":
                into[name].bytes_list.value.append(value.tobytes())
            else:
                # An empty list is told too, as TFDS does.
                held = getattr(into[name], kind)
                held.SetInParent()
                held.value.extend(value.ravel().tolist())
        # Deterministic, because a protobuf map has no order of its own.
        return record.SerializeToString(deterministic=True)


class Shard:
    """One file of records, in the order given. The file appears with the first.

    Attributes:
        path: of the file.
        records, bytes: how many it holds, and what they took before they were compressed.
    """

    def __init__(self, path: Path, encode: Encoder, codec: str):
        self.path, self.records, self.bytes = path, 0, 0
        self._encode, self._codec = encode, codec
        self._file: ArrayRecordWriter | None = None

    def add(self, example: dict) -> bytes:
        """Appends an example; gives its record.

        Raises:
            OSError: no space left.
        """
        record = self._encode(example)
        with _plain_errors(self.path):
            if self._file is None:
                # One record a group, so that a random read decodes one record.
                self._file = ArrayRecordWriter(str(self.path), f"group_size:1,{self._codec}")
            self._file.write(record)
        self.records += 1
        self.bytes += len(record)
        return record

    def close(self) -> None:
        """The file is whole, and has reached the disk.

        Raises:
            OSError: no space left.
        """
        if self._file is None:
            return
        with _plain_errors(self.path):
            self._file.close()
        self._file = None
        durable.sync(self.path)


class Writer:
    """Writes the splits of one dataset into ``folder``.

    Shards are cut by size alone, so equal records make equal files.

    Args:
        hashed: whether ``close`` is to tell a hash of what was added.
    """

    def __init__(self, folder: Path, held: tfds.features.FeaturesDict, hashed: bool = True):
        self._folder, self._features, self._hashed = folder, held, hashed
        self._codec = _codec(held)
        self._encode = Encoder(held)
        self._shards: dict[str, list[Shard]] = {}
        self._hash = hashlib.sha256()
        self._shard: Shard | None = None
        self._split = ""

    def add(self, split: str, example: dict) -> None:
        """Appends an example; all of a split come one after the other."""
        if self._split != split or self._shard.bytes > SHARD_BYTES:
            self._close_shard()
            self._split, self._shard = split, self.shard(split)
        record = self._shard.add(example)
        if self._hashed:
            self._hash.update(split.encode() + b"\0" + len(record).to_bytes(8, "little"))
            self._hash.update(record)

    def shard(self, split: str) -> Shard:
        """The next shard of a split, for who fills and closes it: in another thread, if need be."""
        shards = self._shards.setdefault(split, [])
        path = self._folder / f"draft-{split}-{len(shards):05d}"
        shards.append(Shard(path, self._encode, self._codec))
        return shards[-1]

    def close(self) -> str:
        """Finishes the shards, writes TFDS's own files, and returns the SHA-256 over all that was added (if ``hashed``).

        Raises:
            OSError: no space left.
        """
        self._close_shard()
        template = tfds.core.ShardedFileTemplate(
            data_dir=self._folder,
            dataset_name=NAME,
            filetype_suffix="array_record",
            template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        )
        infos = []
        for split, shards in self._shards.items():
            named = template.replace(split=split)
            for index, shard in enumerate(shards):
                os.rename(shard.path, named.sharded_filepath(shard_index=index, num_shards=len(shards)))
            infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[shard.records for shard in shards],
                    num_bytes=sum(shard.bytes for shard in shards),
                    filename_template=named,
                )
            )
        tfds.folder_dataset.write_metadata(
            data_dir=self._folder,
            features=self._features,
            split_infos=infos,
            filename_template=template,
            check_data=False,  # its check reads with TensorFlow
            description=_DESCRIPTION,
        )
        return self._hash.hexdigest()

    def _close_shard(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._shard = None


def _codec(held: tfds.features.FeaturesDict) -> str:
    """How records are compressed.

    Pixels of 8 bits hardly shrink (X-rays to .82 of their size by Zstandard's level 1, ultrasound to .92), so what counts
    is that its level -5, which gives up sooner, is read nearly twice as fast and written at 2 to 3 times the speed (to
    .87 and .99; Snappy gives .85 and .99, and is read no faster than level 1). Those of 16 bits do (a head in MR to .20,
    by level -5 to .36), and are not read faster by it. Level 1 writes 2 to 6 times as fast as the default of 3, at the same
    size but for noisy volumes, which grow by up to a fifth. A window as large as a chunk saves another tenth of its
    time, and costs as much of a whole volume's.
    """
    image = held["image"] if "image" in held else None
    if image is not None and image.np_dtype == np.uint8:
        return "zstd:-5"
    return "zstd:1" if image is not None and None not in image.shape else "zstd:1,window_log:17"


@contextlib.contextmanager
def _plain_errors(path: Path):
    """ArrayRecord raises RuntimeError with the system's message inside; here it is the OSError it was."""
    try:
        yield
    except RuntimeError as error:
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            if os.strerror(code) in str(error):
                raise OSError(code, os.strerror(code), str(path)) from error
        raise
