"""What every test shares: eight devices, compiled code that is kept between runs, and small datasets."""

import csv
import gc
import hashlib
import importlib.metadata
import os
import signal
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def _processor() -> str:
    """Names the kind of processor, so that one never runs code compiled for another (a shared disk)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        text = "\n".join(sorted({n for n in lines if n.startswith(("model name", "flags", "Features"))}))
    except OSError:
        text = " ".join(os.uname())
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# Before JAX is imported. Tests are the same on every machine, so an accelerator is not used unless it is
# asked for; eight devices on the host are enough to see a wrong sharding. Compiling is most of what the tests
# take, so it is done without optimising, which takes less than half the time (with an optimisation level of your own
# in XLA_FLAGS, all else is as users have it: --xla_backend_optimization_level=3), and compiled code is kept, where
# `pytest --cache-clear` removes it. Processes that tests start inherit all this.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_flags = os.environ.get("XLA_FLAGS", "")
if "device_count" not in _flags:
    _flags += " --xla_force_host_platform_device_count=8"
if "--xla_backend_optimization_level" not in _flags:
    _flags += " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    if importlib.metadata.version("jaxlib") < "0.11":  # later ones do not know it, and stop at what they do not know
        _flags += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = _flags.strip()
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(PROJECT / ".pytest_cache" / "d" / f"jax-{_processor()}")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("MPLBACKEND", "agg")
# Tests make pseudonyms with a key of their own, not with the one of the person who runs them, and always the same:
# which patients a small label budget holds follows from it, and so does how many scans that is.
_KEY = PROJECT / ".pytest_cache" / "d" / "pseudonyms.key"
os.environ["VITMED_KEY"] = str(_KEY)
_KEY.parent.mkdir(parents=True, exist_ok=True)
_written = _KEY.with_suffix(f".{os.getpid()}")  # moved into place whole: another process may be reading it
_written.write_text(hashlib.sha256(b"the key of the tests").hexdigest() + "\n")
_written.replace(_KEY)

# Tracing makes millions of objects that stay, and looking through them all for cycles was an eighth of the tests.
gc.set_threshold(100_000, 20, 20)

# A script in the background runs with ctrl-C ignored, and so would all that it starts; some tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import nibabel  # noqa: E402
import numpy as np  # noqa: E402
import pydicom  # noqa: E402
import pytest  # noqa: E402
from PIL import Image  # noqa: E402
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, generate_uid  # noqa: E402


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scans, or a skip that says where they were looked for."""
    folder = Path(os.environ.get("VITMED_TEST_DATA") or PROJECT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real scans: {folder} is not there; name their folder in VITMED_TEST_DATA")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """The same draws in every test, whatever ran before it."""
    return np.random.Generator(np.random.Philox(key=0))


@pytest.fixture(scope="session")
def tiny_pngs(tmp_path_factory) -> Path:
    """A folder a user might bring: 40 patients, 1 or 2 X-rays of 16x16 each, labels.csv with two classes.

    The classes differ by a bright square, so that a model can learn them. The column ``split`` says where
    each patient goes; every split holds both classes.
    """
    folder = tmp_path_factory.mktemp("tiny_pngs")
    rows = []
    for patient, finding, split, draw in _patients(40):
        for scan in range(1 + patient % 2):
            image = 80 + 20 * draw.standard_normal((16, 16))
            image[4:9, 5:10] += 70 * finding
            name = f"p{patient:02}_{scan}.png"
            Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / name)
            rows.append((name, f"p{patient:02}", split, ("clear", "lesion")[finding]))
    _write_labels(folder, rows)
    return folder


@pytest.fixture(scope="session")
def tiny_niftis(tmp_path_factory) -> Path:
    """The same in 3D: 20 patients, each one 16x16x16 MRI volume of 1 mm as NIfTI, and labels.csv."""
    folder = tmp_path_factory.mktemp("tiny_niftis")
    rows = []
    for patient, finding, split, draw in _patients(20):
        volume = 300 + 40 * draw.standard_normal((16, 16, 16))
        volume[4:9, 5:10, 3:8] += 250 * finding
        name = f"p{patient:02}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(volume.clip(0).astype(np.int16), np.eye(4)), folder / name)
        rows.append((name, f"p{patient:02}", split, ("clear", "lesion")[finding]))
    _write_labels(folder, rows)
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tiny_pngs, tmp_path_factory) -> Path:
    """``tiny_pngs`` ingested: 60 X-rays of 16x16x1, train/val/test of 24/8/8 patients."""
    from vitmed.data.ingest import ingest

    out = tmp_path_factory.mktemp("datasets") / "tiny"
    ingest(tiny_pngs, out, labels=tiny_pngs / "labels.csv", modality="xray", workers=1)
    return out


@pytest.fixture(scope="session")
def tiny_volumes(tiny_niftis, tmp_path_factory) -> Path:
    """``tiny_niftis`` ingested: 20 MRI volumes of 16x16x16x1, train/val/test of 12/4/4 patients."""
    from vitmed.data.ingest import ingest

    out = tmp_path_factory.mktemp("datasets") / "tiny_volumes"
    ingest(tiny_niftis, out, labels=tiny_niftis / "labels.csv", modality="mr", workers=1)
    return out


@pytest.fixture(scope="module")
def small_nano():
    """The loop is the same whatever it trains; eight devices on two cores take half a second for a step of the real one."""
    from vitmed.models.vit import VARIANTS, Variant

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "nano", Variant(32, 2, 2, 64))
        yield


@pytest.fixture(scope="session")
def marked_dataset(tmp_path_factory) -> Path:
    """20 patients, each one X-ray of 16x24 with a mask of two structures, 1 and 2; train/val/test of 12/4/4."""

    def save(name, values):
        Image.fromarray(values.astype(np.uint8)).save(f"{name}.png")
        return f"{name}.png"

    return _marked(tmp_path_factory, (16, 24), save, "xray")


@pytest.fixture(scope="session")
def marked_volumes(tmp_path_factory) -> Path:
    """The same in 3D: MRI volumes of 8x16x12 and 1 mm as NIfTI."""

    def save(name, values):
        volume = nibabel.Nifti1Image(values.astype(np.int16).transpose(), np.eye(4))
        nibabel.save(volume, f"{name}.nii.gz")
        return f"{name}.nii.gz"

    return _marked(tmp_path_factory, (8, 16, 12), save, "mr")


@pytest.fixture(scope="session")
def segmenter(marked_dataset, tmp_path_factory) -> Path:
    """A U-Net of ``marked_dataset`` after four steps."""
    return _unet(marked_dataset, tmp_path_factory)


@pytest.fixture(scope="session")
def volume_segmenter(marked_volumes, tmp_path_factory) -> Path:
    """The same of ``marked_volumes``, learned from boxes of 8x8x8."""
    return _unet(marked_volumes, tmp_path_factory, **{"data.crop": (8, 8, 8)})


def _unet(dataset, factory, **keys) -> Path:
    import short_runs

    run = factory.mktemp("segmenters") / dataset.parent.name
    config = str(PROJECT / "configs" / "finetune_segment.py:unet")
    short_runs.train(config, dataset, run, **{"train.batch_size": 8, "model.width": 4}, **keys)
    return run


def _marked(factory, size, save, modality) -> Path:
    """Ingests scans with a box (1) and a slab (2), brighter than what surrounds them; half of the scans lack the box.

    The first scan of training has no mask, and of the second one nobody has looked at the last third of the columns.
    """
    from vitmed.data.ingest import ingest

    folder = factory.mktemp("marked")
    rows = []
    for patient, has_box, split, draw in _patients(20):
        mask = np.zeros(size, np.uint8)
        mask[(slice(None),) * (len(size) - 1) + (slice(0, 4),)] = 2
        corner = [int(draw.integers(0, n - 5)) for n in size[:-1]] + [int(draw.integers(5, size[-1] - 5))]
        if has_box:
            mask[tuple(slice(a, a + 5) for a in corner)] = 1
        image = np.clip(np.array([60, 200, 130])[mask] + 10 * draw.standard_normal(size), 1, 255)
        if patient == 1:
            mask[..., -(size[-1] // 3) :] = 255
        told = "" if patient == 0 else save(folder / f"p{patient:02}_mask", mask).rsplit("/")[-1]
        rows.append((save(folder / f"p{patient:02}", image).rsplit("/")[-1], f"p{patient:02}", split, told))
    with open(folder / "scans.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "patient", "split", "mask"), *rows])
    ingest(folder / "scans.csv", folder / "dataset", modality=modality, workers=1)
    return folder / "dataset"


def _patients(count: int):
    """(number, class 0 or 1, split, generator) of each patient: 3 in 5 train, 1 in 5 val, 1 in 5 test."""
    splits = ("train", "train", "train", "val", "test")
    for patient in range(count):
        split = splits[patient // 2 % 5]
        yield patient, patient % 2, split, np.random.Generator(np.random.Philox(key=patient))


def _write_labels(folder: Path, rows: list[tuple[str, str, str, str]]) -> None:
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "patient", "split", "finding"), *rows])


# .ci/run installs all that tests ask for and sets VITMED_NO_SKIPS: there, a test that is skipped has failed.
# Otherwise the check against another implementation could silently stop running.


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _no_skips((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _no_skips((yield))


def _no_skips(report):
    if report.skipped and os.environ.get("VITMED_NO_SKIPS") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and .ci/run allows no skips: {report.longrepr[-1]}"
    return report


_AXIAL = (1, 0, 0, 0, 1, 0)
_SEG_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"


def _item(**values):
    data = Dataset()
    for name, value in values.items():
        setattr(data, name, value)
    return data


def _write_seg(
    path,
    segments,
    position=(10, 20, 30),
    spacing=(0.5, 0.25),
    between=2.0,
    orientation=_AXIAL,
    series="1.2.3",
    instances=(),
    **tags,
):
    """Writes a BINARY segmentation.

    Args:
        segments: (label, (slices, rows, columns) bool) of each; empty slices are left out, as the standard allows.
        position: of the first voxel of slice 0.
        between: millimetres from slice to slice, along the normal.
        series, instances: UIDs of what it references, none where empty.
        tags: override what is written by default, or remove it, given None.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = _SEG_STORAGE
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    normal = np.cross(orientation[:3], orientation[3:])
    frames, groups = [], []
    for number, (_, bits) in enumerate(segments, 1):
        for k, plane in enumerate(np.asarray(bits, bool)):
            if plane.any():
                place = [float(v) for v in np.array(position) + k * between * normal]
                frames.append(plane)
                groups.append(
                    _item(
                        SegmentIdentificationSequence=[_item(ReferencedSegmentNumber=number)],
                        PlanePositionSequence=[_item(ImagePositionPatient=place)],
                    )
                )
    measures = _item(PixelSpacing=list(spacing), SliceThickness=between, SpacingBetweenSlices=between)
    shared = _item(
        PixelMeasuresSequence=[measures],
        PlaneOrientationSequence=[_item(ImageOrientationPatient=list(orientation))],
    )
    code = _item(CodeValue="85756007", CodingSchemeDesignator="SCT", CodeMeaning="Tissue")
    held = [
        _item(SegmentNumber=n, SegmentLabel=label, SegmentedPropertyTypeCodeSequence=[code])
        for n, (label, _) in enumerate(segments, 1)
    ]
    values = {
        "SOPClassUID": _SEG_STORAGE,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "SeriesInstanceUID": generate_uid(entropy_srcs=["series", str(path)]),
        "Modality": "SEG",
        "PatientID": "p1",
        "PatientName": "Quixote^Alonso",
        "SegmentationType": "BINARY",
        "Rows": frames[0].shape[0],
        "Columns": frames[0].shape[1],
        "NumberOfFrames": len(frames),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 1,
        "BitsStored": 1,
        "HighBit": 0,
        "PixelRepresentation": 0,
        "SegmentSequence": held,
        "SharedFunctionalGroupsSequence": [shared],
        "PerFrameFunctionalGroupsSequence": groups,
    }
    if series:
        refs = [_item(ReferencedSOPClassUID=_SEG_STORAGE, ReferencedSOPInstanceUID=uid) for uid in instances]
        values["ReferencedSeriesSequence"] = [
            _item(SeriesInstanceUID=series, ReferencedInstanceSequence=refs)
        ]
    for name, value in {**values, **tags}.items():
        if value is not None:
            setattr(data, name, value)
    packed = np.packbits(np.concatenate([f.ravel() for f in frames]), bitorder="little").tobytes()
    data.PixelData = packed + b"\0" * (len(packed) % 2)
    pydicom.dcmwrite(str(path), data, enforce_file_format=True)
    return str(path)


@pytest.fixture
def write_seg():
    """The function ``_write_seg`` above: a DICOM segmentation made to order."""
    return _write_seg
