"""One self-contained HTML page: the data, what was learned, how sure the numbers are, where they came from.

Styles, figures and pictures are inside the page; it loads nothing, so it can be mailed and opened years
later.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

import vitmed
from vitmed import durable, words
from vitmed.report import findings, gather, outlines, pictures, provenance, reconstructions, sections

TEMPLATES = Path(__file__).parent / "templates"


def write(
    out: str | Path,
    runs: Sequence[str | Path] = (),
    datasets: Sequence[str | Path] = (),
    studies: Sequence[str | Path] = (),
    title: str | None = None,
) -> dict[str, Any]:
    """Writes the page to ``out``.

    Args:
        runs: run folders, pretraining and fine-tuning alike.
        datasets: dataset folders; those that the runs were trained on are found by themselves.
        studies: study folders; a study's pretraining run is shown with it.
        title: of the page; made from the names of studies or datasets if left out.

    Returns:
        ``report`` (its path), ``runs``, ``datasets`` and ``studies`` (how many of each it shows), and
        ``simulated``.

    Raises:
        InputError: a folder that is not what it is given as.
        MachineError: the disk is full or refuses.
    """
    out = Path(out)
    home = out.resolve().parent
    studied = [gather.study(Path(s)) for s in studies]
    shown = [gather.run(Path(r)) for r in runs]
    known = {run["path"].resolve() for run in shown}
    pretrained = [p for s in studied for p in s["pretrains"] if p["path"].resolve() not in known]
    shown = pretrained + shown
    opened, missing = _datasets(datasets, shown, studied)
    sheets = (
        [d["sheet"] for d in opened] + [run["datasheet"] for run in shown] + [s["dataset"] for s in studied]
    )
    simulated = any(sheet.get("simulated") for sheet in sheets)
    by_path = {d["path"].resolve(): d for d in opened}
    context = {
        "title": title or _title(opened, shown, studied),
        "date": f"{datetime.date.today():%-d %B %Y}",
        "banner": words.SIMULATED if simulated else "",
        "lead": findings.lead(opened, shown, studied),
        "tiles": findings.tiles(opened, shown, studied),
        "datasets": [_dataset(d) for d in opened],
        "missing": [str(path) for path in missing],
        "pretraining": [
            sections.pretraining(run, _triples(run, by_path), _changed(run, by_path))
            for run in shown
            if not run["supervised"]
        ],
        "studies": [sections.study(s, home) for s in studied],
        "evaluated": [
            sections.evaluated(run, [_outlines(run, e, by_path) for e in run["evaluations"]])
            for run in shown
            if run["supervised"]
        ],
        "provenance": provenance.provenance(shown, opened, studied, home),
        "version": vitmed.__version__,
    }
    with durable.disk(home, "the report"):
        home.mkdir(parents=True, exist_ok=True)
    durable.write_text(out, environment().get_template("page.html").render(context))
    return {
        "report": str(out),
        "runs": len(shown),
        "datasets": len(opened),
        "studies": len(studied),
        "simulated": simulated,
    }


def environment() -> jinja2.Environment:
    """The templates of this room, with the filters they use."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "number": words.number,
        "count": words.count,
        "metric": words.metric,
        "capital": words.capital,
        "style": lambda name: markupsafe.Markup((TEMPLATES / name).read_text()),  # ours, so not escaped
    }
    made.globals |= {"interval": words.interval, "plural": words.plural, "times": words.times}
    return made


def _dataset(found: dict[str, Any]) -> dict[str, Any]:
    split = pictures.shown_split(found["opened"])
    return sections.dataset(found, pictures.samples(found["opened"], split)) | {"split": split}


def _datasets(
    given: Sequence[str | Path], runs: list[dict], studies: list[dict]
) -> tuple[list[dict], list[Path]]:
    """The datasets asked for or named by runs and studies, and the named ones that are no longer there."""
    asked = [Path(path) for path in given]
    named = [
        Path(p)
        for p in [r["config"]["data"]["path"] for r in runs] + [s["dataset"]["path"] for s in studies]
        if p
    ]
    opened, missing, seen = [], [], set()
    for path in asked + named:
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        if path in asked or path.exists():
            opened.append(gather.dataset(path))
        else:
            missing.append(path)
    return opened, missing


def _triples(run: dict[str, Any], datasets: dict[Path, dict]) -> dict[str, Any] | None:
    """Pictures of what a masked autoencoder makes of scans, where its dataset is still what it was."""
    if run["objective"] != "mae" or (found := _own(run, datasets)) is None or _changed(run, datasets):
        return None
    dataset, data = found["opened"], run["config"]["data"]
    trained, wanted = data.get("split", "train"), data.get("val_split", "val")
    split = wanted if dataset.has_split(wanted) else trained
    images = reconstructions.triples(run["path"], dataset, split)
    return images and {"split": split, "unseen": split != trained, "images": images}


def _own(run: dict[str, Any], datasets: dict[Path, dict]) -> dict[str, Any] | None:
    """What lies where the dataset lay that a run was trained on; None of weights from a file, which name no place."""
    path = run["config"]["data"]["path"]
    return datasets.get(Path(path).resolve()) if path else None


def _changed(run: dict[str, Any], datasets: dict[Path, dict]) -> bool:
    """Whether what lies there is no longer what the run was trained on, be it only in its splits."""
    found = _own(run, datasets)
    return found is not None and found["sheet"]["content_hash"] != run["datasheet"]["content_hash"]


def _outlines(run: dict[str, Any], evaluation: dict[str, Any], datasets: dict[Path, dict]) -> dict:
    """Pictures of an evaluation of masks as ``outlined``, or None; and ``unshown``, why there are none that one expects."""
    made: dict[str, Any] = {"outlined": None, "unshown": ""}
    if evaluation.get("task") != "segmentation":
        return made
    path = Path(evaluation["dataset"])
    found = datasets.get(path.resolve())
    content = evaluation["content"] or run["datasheet"]["content_hash"]
    if found is None and path.exists():
        made["unshown"] = "Outlines are shown where the page is told of this dataset too."
    elif found is None:
        made["unshown"] = "The dataset is no longer where it was, so no outlines are shown."
    elif not found["sheet"]["content_hash"].startswith(content):
        made["unshown"] = "The dataset has changed since this evaluation, so no outlines are shown."
    else:
        made["outlined"] = outlines.outlines(run["path"], found["opened"], evaluation)
        if made["outlined"] is None:
            made["unshown"] = "The run no longer keeps what was evaluated, so no outlines are shown."
    return made


def _title(datasets: list[dict], runs: list[dict], studies: list[dict]) -> str:
    if studies:
        few = any(map(findings.with_few, studies))
        return ("Learning from few labels: " if few else "") + words.listed([s["study"] for s in studies])
    names = [d["sheet"]["name"] for d in datasets] or [run["name"] for run in runs]
    return f"Report on {words.listed(list(dict.fromkeys(names)))}" if names else "Report"
