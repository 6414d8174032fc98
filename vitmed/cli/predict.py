"""What a trained run says of scans: a table of scores, or a mask of each on the scan's own grid.

  vitmed predict runs/chest new_scans/ --out predictions
  vitmed predict runs/hippocampus sub-01.nii.gz sub-02.nii.gz --out masks
  vitmed predict runs/hippocampus data/hippocampus --split test --out masks     a dataset; with its truth, metrics too

INPUT is files and folders of scans (whatever vitmed ingest reads but a manifest), or one dataset. Scans are read and
prepared as the run's own dataset was: its frames and series, modality, spacing and size. What does not fit (another
modality, a missing spacing, other channels, 2D for 3D) is refused, with both sides named, and the rest goes on; --force
takes another modality of the same unit, and volumes without a spacing, and marks them in DIR/result.json.

DIR holds result.json (which run, checkpoint and dataset made it; what was refused and why; what each number in a mask
means) and

  predictions.csv   of a classifier or regressor: id, probability:CLASS or value:NAME, and what is said at the threshold that
                    was chosen on validation
  NAME.nii.gz       of a segmentation run: a volume's mask, voxel for voxel on the scan it is named after
  NAME.png          an image's mask, of the image's size; the structures are grey levels 1, 2, ..., nearly black to the eye
  NAME.npy          the mask of a volume whose file does not say where it lies

DIR appears when all is done. Metrics of a dataset's split count as a look at it in RUN/ledger.json, as with vitmed evaluate.
"""

from vitmed import words

HELP = "scores or masks of new scans, by a trained run"


def arguments(parser):
    parser.add_argument(
        "run", metavar="RUN", help="folder of a fine-tuned run (the --workdir of its training)"
    )
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="files and folders of scans, or one dataset"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to make; it must not exist")
    parser.add_argument(
        "--which", default="last", choices=("last", "best"), help="checkpoint (default: last)"
    )
    parser.add_argument("--split", metavar="NAME", help="of a dataset: train, val or test (default: test)")
    parser.add_argument("--count", type=int, metavar="N", help="at most N scans, the first ones")
    parser.add_argument(
        "--force", action="store_true", help="take what does not fit where that has a meaning, and mark it"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that read scans (default: one a core)"
    )


def run(args) -> dict:
    from pathlib import Path

    from vitmed.errors import InputError
    from vitmed.runs.folder import locate

    # Said at once, before the heavy rooms are opened.
    locate(args.run)
    for path in args.inputs:
        if not Path(path).exists():
            raise InputError(f"{path} does not exist; give scans, folders of them, or a dataset")
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers is {args.workers}; at least 1 was expected")

    from rich.console import Console

    from vitmed.apply.predict import predict

    result = predict(
        args.run,
        args.inputs,
        args.out,
        args.which,
        args.split,
        args.count,
        args.force,
        args.workers,
        quiet=False,
    )
    show(result, Console(stderr=args.json))
    return result


def show(result: dict, console) -> None:
    """Prints what was made of how many scans, what was refused, and the metrics where the truth is known."""
    from vitmed.cli.evaluate import show_metrics

    def say(text):
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    if "metrics" in result:
        show_metrics(result, console, result["input"]["split"])
    for note in result["notes"]:
        say(f"note: {note}")
    for reason, n in result["refused"].items():
        say(f"refused: {n} {reason}")
    made = "masks" if result["task"] == "segmentation" else "rows of predictions.csv"
    if result["task"] == "segmentation":
        say("in the masks: " + ", ".join(f"{k} {name}" for name, k in result["structures"].items()))
    n = result["examples"]
    say(f"{words.plural(n, 'scan')}, checkpoint {result['checkpoint']}: {made} in {result['out']}")
