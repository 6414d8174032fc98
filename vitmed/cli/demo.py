"""The whole path in minutes: scans in, a pretrained model, a few labels, an evaluated model, a report.

  vitmed demo                      simulated X-ray, CT, MR and ultrasound scans; nothing is downloaded
  vitmed demo --data SCANS.npz     the same with a labelled dataset of yours, or a MedMNIST file

It writes real files (DICOM, NIfTI, PNG), ingests them as it would yours, pretrains a Vision Transformer by masked
image modelling, fine-tunes it on few labels beside training from scratch and a ResNet, and draws one HTML page.
The same command goes on from where it stands.
"""

HELP = "the whole path on simulated scans (or --data PATH): minutes on two cores, ends with a report"

PATIENTS = {"ct": 480, "xray": 40, "ultrasound": 40, "mr": 40}
SCANS = {"ct": 4, "xray": 2, "ultrasound": 2, "mr": 2}  # a patient
# Testing on a scan costs a hundredth of learning from it, and many patients make the interval narrow.
SPLITS = {"ct": "67/5/28"}
SIZES = {"ct": (64, 64), "xray": (64, 64), "ultrasound": (64, 64), "mr": (32, 32, 32)}
# The study is made of this modality, the easiest to learn from; the others show that they are read, learned and drawn.
MAIN = "ct"
SHORT_STEPS = 40
TOKENS = 64
STUDY = "demo.py"  # in configs/study/


def goes_on(args) -> str:
    return "what was saved"


def arguments(parser):
    parser.add_argument("--out", default="demo", metavar="DIR", help="where everything goes (default: demo)")
    parser.add_argument(
        "--data", metavar="PATH", help="a labelled dataset of `vitmed ingest`, or a MedMNIST .npz"
    )
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="trainings at a time (default: 2)")


def run(args) -> dict:
    import time
    from pathlib import Path

    from vitmed import durable
    from vitmed.errors import InputError
    from vitmed.progress import clock
    from vitmed.report import page

    out, began = Path(args.out), time.monotonic()
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give --out a folder")
    if args.data is not None and not Path(args.data).exists():
        raise InputError(
            f"--data {args.data} does not exist; give a dataset of `vitmed ingest` or a MedMNIST .npz"
        )
    with durable.disk(out, "the demo"):
        out.mkdir(parents=True, exist_ok=True)
    told = _Steps(5 if args.data is None else 3)
    if args.data is None:
        told("writing simulated scans: DICOM, NIfTI, PNG")
        _write_scans(out / "scans")
        told("ingesting them")
        datasets = {name: _ingest(out / "scans" / name, out / "data" / name, name) for name in PATIENTS}
        told("pretraining on X-ray, ultrasound and MR, half a minute in all")
        runs = [_pretrain(datasets[name], out / "runs" / f"mae-{name}") for name in PATIENTS if name != MAIN]
        main = datasets[MAIN]
    else:
        told("reading the data")
        main, runs = _own(Path(args.data), out), []
        datasets = {"yours": main}
    told("pretraining, then few labels: pretrained, from scratch, ResNet")
    study = _study(main, out / "study", args.jobs, own=args.data is not None)
    told("drawing the report")
    title = "vitmed demo: from unlabelled scans to an evaluated model"
    result = page.write(out / "report.html", runs, list(datasets.values()), [study], title)
    if not args.json:
        print(f"done in {clock(time.monotonic() - began)}; the report is {result['report']}")
    return {"report": result["report"], "table": str(study / "table.csv"), "simulated": result["simulated"]}


class _Steps:
    """Says which step of how many begins."""

    def __init__(self, total: int):
        self._total, self._done = total, 0

    def __call__(self, what: str) -> None:
        import sys

        self._done += 1
        print(f"[{self._done}/{self._total}] {what}", file=sys.stderr, flush=True)


def _write_scans(folder) -> None:
    from vitmed.phantoms.write import write
    from vitmed.progress import Bar

    with Bar("simulating", sum(PATIENTS.values()), "patients") as bar:
        for modality, patients in PATIENTS.items():
            write(
                folder / modality,
                modality,
                patients,
                size=SIZES[modality],
                scans_per_patient=SCANS[modality],
                progress=lambda done, total: bar.advance(),
            )


def _ingest(source, out, modality: str):
    from vitmed.data.ingest import ingest

    if not (out / "datasheet.json").exists():
        ingest(source, out, labels=source / "labels.csv", modality=modality, split=SPLITS.get(modality))
    return out


def _own(path, out):
    """A dataset as it is; anything else is ingested first."""
    import sys

    from vitmed.data.ingest import ingest

    if (path / "datasheet.json").exists():
        return path
    made = out / "data" / path.stem
    if not (made / "datasheet.json").exists():
        key = ingest(path, made)["key"]
        if key:
            print(f"patients are pseudonyms; their key is {key}: keep it", file=sys.stderr)
    return made


def _pretrain(dataset, workdir):
    from vitmed import config
    from vitmed.train import train

    keys = {
        "data.path": dataset,
        "model.variant": "pico",
        "model.patch_size": _patch(dataset),
        "train.steps": SHORT_STEPS,
        "train.batch_size": 32,
        "train.val_every": SHORT_STEPS // 2,
        "checkpoint.every": SHORT_STEPS,
    }
    train(config.load(str(_configs() / "pretrain_mae.py"), {k: str(v) for k, v in keys.items()}), workdir)
    return workdir


def _study(dataset, workdir, jobs: int, own: bool):
    from vitmed import config
    from vitmed.study.study import study

    keys = {"data.path": str(dataset)}
    for part in ("pretrain", "arms.pretrained.config", "arms.scratch.config"):
        keys[f"{part}.model.patch_size"] = str(_patch(dataset))
    if own:
        # What was found good for these phantoms is not assumed of other scans: a mirror image may have another
        # label, and targets are as in configs/pretrain_mae.py.
        keys |= {"pretrain.augment.flip": "()", "pretrain.objective.target": "patch"}
    study(config.load(str(_configs() / "study" / STUDY), keys), workdir, jobs)
    return workdir


def _patch(dataset) -> tuple[int, ...]:
    """The patch that cuts a scan into about sixty-four: eight by eight in 2D, four by four by four in 3D."""
    from vitmed.data.dataset import Dataset

    size = Dataset.open(dataset).recipe().size
    parts = round(TOKENS ** (1 / len(size)))
    return tuple(
        min((d for d in range(1, n + 1) if n % d == 0), key=lambda d: abs(d - n / parts)) for n in size
    )


def _configs():
    from pathlib import Path

    from vitmed.errors import InputError

    folder = Path(__file__).parents[2] / "configs"
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not there; run the demo from a clone of the project, whose configs it uses"
        )
    return folder
