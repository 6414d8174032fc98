"""Records are encoded here at a fraction of the time of TFDS's encoder, and must be the same bytes."""

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from vitmed.data import chunks
from vitmed.data.annotations import TOLD
from vitmed.data.records import Encoder, Writer, features, identity


def made(rng, size, channels, dtype, outputs, masks):
    """An example of all fields, with what is odd in them: nothing known, no outputs, letters beyond ASCII."""
    ndim = len(size)
    example = {
        "image": rng.integers(0, 200, (*size, channels)).astype(dtype),
        "scale": rng.random(channels, np.float32),
        "offset": -rng.random(channels, np.float32),
        "spacing": np.array([np.nan, *rng.random(ndim - 1)], np.float32),
        "affine": rng.standard_normal((4, 4)),
        "grid": np.asfortranarray(rng.standard_normal((ndim + 1, ndim + 1))),
        "label": rng.random(outputs, np.float32),
        "label_weight": np.zeros(outputs, np.float32),
        "example": identity("caf\u00e9"),
        "id": "caf\u00e9/\u5c71.dcm",
        "patient": "",
        "site": "S0",
        **{name: name for name in TOLD},
        "read_size": np.array(size, np.int64),
        "read_spacing": np.full(ndim, np.inf, np.float32),
        "exposed": "text,face",
        "orientation": "LPI"[:ndim],
    }
    if masks:
        example["mask"] = rng.integers(0, 255, size).astype(np.uint8)
    return example


@pytest.mark.parametrize(
    "shape",
    [((5, 4), 1, np.uint8, 1, False), ((3, 4, 5), 2, np.int16, 3, True), ((4, 4), 3, np.uint16, 0, True)],
)
def test_a_record_is_to_the_byte_what_tfds_makes_of_the_example(rng, shape):
    held, example = features(*shape[:2], np.dtype(shape[2]), *shape[3:]), made(rng, *shape)
    serializer = ExampleSerializer(held.get_serialized_info())
    theirs = serializer.get_tf_example(held.encode_example(example)).SerializeToString(deterministic=True)
    assert Encoder(held)(example) == theirs


@pytest.mark.parametrize("masks", [False, True])
def test_a_chunk_of_any_size_is_too(rng, masks):
    held = chunks.features(3, 2, np.dtype(np.int16), masks)
    example = {
        "image": rng.integers(-9, 9, (3, 1, 4, 2)).astype(np.int16),
        "start": np.array([32, 0, 64]),
        "example": identity("a"),
    }
    if masks:
        example["mask"] = rng.integers(0, 9, (3, 1, 4)).astype(np.uint8)
    serializer = ExampleSerializer(held.get_serialized_info())
    theirs = serializer.get_tf_example(held.encode_example(example)).SerializeToString(deterministic=True)
    assert Encoder(held)(example) == theirs
    with pytest.raises(ValueError, match="image is int16"):
        Encoder(held)({**example, "image": example["image"][0]})


@pytest.mark.parametrize(("dtype", "codec"), [(np.uint8, "zstd:-5"), (np.int16, "zstd:1")])
def test_records_are_compressed_by_what_their_pixels_are(rng, tmp_path, dtype, codec):
    """Else pictures are read at half the speed, or heads take half as much space again; of both, one record at a time."""
    writer = Writer(tmp_path, features((5, 4), 1, np.dtype(dtype), 1, False))
    writer.add("train", made(rng, (5, 4), 1, dtype, 1, False))
    writer.close()
    (shard,) = tmp_path.glob("*.array_record-*")
    options = ArrayRecordReader(str(shard)).writer_options_string()
    assert f"{codec}," in options and "group_size:1," in options


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image", np.zeros((5, 4, 1), np.int16), "image is int16"),
        ("scale", np.zeros(2, np.float32), r"scale is float32 \(2,\)"),
        ("spacing", None, "no spacing|holds"),
        ("more", np.zeros(1), "holds"),
    ],
)
def test_an_example_that_is_not_what_the_set_holds_is_refused(rng, name, value, message):
    """Written all the same, it would be read back as something else."""
    encode = Encoder(features((5, 4), 1, np.dtype(np.uint8), 1, False))
    example = made(rng, (5, 4), 1, np.uint8, 1, False)
    example[name] = value
    if value is None:
        del example[name]
    with pytest.raises(ValueError, match=message):
        encode(example)
