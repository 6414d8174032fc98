"""Put an array that lies on a dataset's grid back onto the grid of the scan that it was made from.

  vitmed writeback data/mri sub-01/T1.nii.gz mask.npy --out mask.nii.gz
  vitmed writeback data/mri sub-01/T1.nii.gz attention.npy --out attention.nii.gz --fill nan

ARRAY.npy has the size of the dataset's images, with or without channels last: a mask, a map or an image. Integers are
taken for labels: each voxel of the scan gets that of the nearest voxel. Floats are interpolated linearly, also where
each is a whole number, which is told.
What was resampled, cropped or padded by ingest is undone, to half a voxel; where the dataset's grid does not reach
there is --fill.

EXAMPLE is what the dataset calls the scan (the id in datasheet.json and `Dataset.ids`). FILE is a .nii or .nii.gz, whose
voxels are those of the scan's own file and lie where they do in the patient, (i, j, k) of a NIfTI file, (slice, row, column) of a DICOM series;
or a .npy of the same numbers, for pictures too.
"""

HELP = "a mask or map made on a dataset's grid, put back onto the voxels of its scan"
SUFFIXES = (".nii.gz", ".nii", ".npy")


def arguments(parser):
    parser.add_argument("dataset", metavar="DATASET", help="a folder made by vitmed ingest")
    parser.add_argument("example", metavar="EXAMPLE", help="the id of a scan in it")
    parser.add_argument("array", metavar="ARRAY.npy", help="numbers of the size of the dataset's images")
    parser.add_argument("--out", required=True, metavar="FILE", help="a new .nii.gz, .nii or .npy")
    parser.add_argument(
        "--fill", type=float, default=0.0, metavar="VALUE", help="what cropped places hold (default: 0)"
    )


def run(args) -> dict:
    import sys
    from pathlib import Path

    import numpy as np

    from vitmed.data.dataset import Dataset
    from vitmed.errors import InputError
    from vitmed.scans.writeback import onto_scan, write_nifti

    out = Path(args.out)
    if not out.name.lower().endswith(SUFFIXES):
        raise InputError(f"--out {out} is none of {', '.join(SUFFIXES)}; give one of these")
    if out.exists():
        raise InputError(f"{out} exists already; give --out a new path, or remove it first")
    if not out.parent.is_dir():
        raise InputError(f"the folder {out.parent} of --out does not exist; make it first")
    dataset = Dataset.open(args.dataset)
    record = _record(dataset, args.example)
    array = _array(args.array)
    nearest = array.dtype.kind in "iu"
    if nearest and not (
        args.fill.is_integer() and np.can_cast(np.min_scalar_type(int(args.fill)), array.dtype)
    ):
        raise InputError(
            f"--fill {args.fill:g} is no value of {args.array}, which holds {array.dtype} labels"
        )
    if not nearest and (array == np.rint(array)).all() and array.any():
        print(
            f"note: {args.array} holds whole numbers as {array.dtype}, which are interpolated; if they are labels, save "
            "them as integers",
            file=sys.stderr,
        )
    made, affine = onto_scan(array, record, nearest=nearest, fill=args.fill)
    if out.suffix.lower() == ".npy":
        np.save(out, made)
    else:
        write_nifti(out, made, affine)
    if not args.json:
        print(f"{out}: {' x '.join(map(str, made.shape))} {made.dtype}, on the grid of {args.example}")
    return {"out": str(out), "example": args.example, "shape": list(made.shape), "dtype": made.dtype.name}


def _record(dataset, example: str) -> dict:
    """The example of this id."""
    import difflib

    from vitmed.errors import InputError

    every = []
    for split in dataset.splits:
        ids = dataset.ids(split)
        if example in ids:
            return dataset.record(split, ids.index(example))
        every += ids
    near = difflib.get_close_matches(example, every, 1, 0.0)
    raise InputError(
        f"{dataset.path} has no example {example!r}; the nearest of its {len(every)} ids is {near[0]!r}"
    )


def _array(path: str):
    """The numbers of a ``.npy`` file; labels in the narrowest type of NIfTI that holds them."""
    import numpy as np

    from vitmed.errors import InputError

    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read as a .npy file: {error}") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or not array.size:
        raise InputError(f"{path} holds no array of numbers; save one with numpy.save")
    if array.dtype.kind == "f":
        return array
    low, high = int(array.min()), int(array.max())
    for narrow in (np.uint8, np.int16, np.int32):
        if np.iinfo(narrow).min <= low and high <= np.iinfo(narrow).max:
            return array.astype(narrow)
    raise InputError(f"{path} holds labels from {low} to {high}; 32 bits were expected to be enough")
