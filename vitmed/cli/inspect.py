"""The datasheet of a dataset: what it holds, what was refused and why, copies among its examples.

  vitmed inspect data/chest
  vitmed inspect data/chest --html chest.html

Copies are examples of equal pixels; near-duplicates look the same (re-encoded, resized, of another brightness,
mirrored, or neighbouring slices that can hardly be told apart). A copy of a training scan among the test scans makes
a test number too good; one image with different labels is a contradiction that no model can resolve. The page,
DATASET/datasheet.html, shows scans of each class, volumes in three planes with their sides named, masks over the
scans, histograms, copies, which series a rule chose, and what was refused; it loads nothing from the network. Scans whose pixels may show who the patient is (burned-in text, faces in head MR) are counted here and
listed in datasheet.json.
"""

HELP = "what a dataset holds, what was refused and why, copies and near-duplicates among its examples"
FILES_SHOWN = 10
SERIES_SHOWN = 3


def arguments(parser):
    parser.add_argument("dataset", metavar="DATASET", help="a folder made by vitmed ingest")
    parser.add_argument(
        "--html",
        metavar="FILE",
        help="where to write the page (default: DATASET/datasheet.html, if not there)",
    )


def run(args) -> dict:
    import os
    from pathlib import Path

    from rich.console import Console
    from rich.markup import escape

    from vitmed.data.datasheet import PAGE, read
    from vitmed.report import datasheet

    sheet = read(args.dataset)
    console = Console(stderr=args.json, soft_wrap=True)
    show(sheet, args.dataset, console)
    page = Path(args.html or Path(args.dataset) / PAGE)
    if args.html or (not page.exists() and os.access(args.dataset, os.W_OK)):
        datasheet.write(args.dataset, page)
    if page.exists():
        console.print(f"[dim]{'page':>14}[/]  {escape(str(page))}", highlight=False)
    kept = (
        "examples",
        "patients",
        "refused",
        "duplicates",
        "near_duplicates",
        "contradictions",
        "near_contradictions",
    )
    return {
        "dataset": str(args.dataset),
        # A dataset of an older vitmed was not searched for near-duplicates.
        **{key: sheet.get(key) for key in kept},
        "page": str(page) if page.exists() else None,
    }


def show(sheet: dict, path, console) -> None:
    """Prints a datasheet for people."""
    from rich.markup import escape

    from vitmed.report.sections import patch, structures
    from vitmed.words import plural, span

    def line(name, text):
        console.print(f"[dim]{name:>14}[/]  {escape(text)}", highlight=False)

    size = " x ".join(map(str, sheet["size"])) if sheet["size"] else "various"
    spacing = f", {' x '.join(f'{s:g}' for s in sheet['spacing'])} mm" if sheet["spacing"] else ""
    channels = f", {sheet['channels']} channels" if sheet["channels"] > 1 else ""
    low, high = sheet["window"]
    console.print(f"[bold]{escape(str(path))}[/]", highlight=False)
    if sheet["simulated"]:
        line("simulated", "these scans are phantoms, not patients")
    line("scans", f"{sheet['modality']}, {size}{channels}{spacing}, stored as {sheet['dtype']}")
    if sheet.get("sizes"):
        read = " x ".join(span(axis, whole=True) for axis in sheet["sizes"]) + " voxels"
        axes = sheet["spacings"]["axes"]
        mm = " x ".join(map(span, axes)) + " mm" if axes else ""
        unknown = sheet["spacings"]["unknown"]
        if unknown:
            mm = f"{mm}, {unknown} without a known spacing" if mm else "no known spacing"
        line("as read", f"{read}, {mm}")
    if suits := patch(sheet):
        line("patch of a ViT", suits)
    if sheet.get("chunk"):
        line("stored", f"in chunks of {' x '.join(map(str, sheet['chunk']))}")
    mean, std = (", ".join(f"{v:.4g}" for v in sheet["intensity"][key]) for key in ("mean", "std"))
    unit = "HU" if sheet["unit"] == "HU" else "of their own range"
    line("intensity", f"mean {mean}, std {std} {unit}, clipped to {low:g} .. {high:g}")
    how, by = sheet["splits"]["how"], sheet["splits"]["by"]
    drawn = f"{how} by {by}, seed {sheet['splits']['seed']}"
    drawn += ", what looks alike together" * sheet["splits"].get("dedupe", False)
    if sheet["splits"].get("too_few"):
        drawn = f"all to train, too few for {how} yet"
    line("splits", {"given": "as they came", "train": "all to train"}.get(how, drawn))
    if sheet["task"]:
        many = len(sheet["classes"])
        told = {"multiclass": f"one of {many} classes", "multilabel": f"{many} findings, each there or not"}
        line("labels", told.get(sheet["task"], f"{plural(many, 'number')} (regression)"))
    console.print(_table(sheet))
    for name, key in (("exact copies", "duplicates"), ("near-copies", "near_duplicates")):
        if sheet.get(key):
            copies = [
                f"{n} {'across' if '/' in where else 'in'} {where}" for where, n in sheet[key].items() if n
            ]
            line(name, ", ".join(copies) or "none")
    if sheet.get("marked"):
        line("masks", f"in {plural(sheet['marked']['scans'], 'scan')}: {structures(sheet)}")
    elif sheet.get("structures"):
        named = (f"{' '.join(map(str, values))} {name}" for name, values in sheet["structures"].items())
        line("masks", ", ".join(named))
    if n := sheet["contradictions"]:
        line("contradiction", f"{plural(n, 'image')} with more than one label")
    if n := sheet.get("near_contradictions"):
        line("contradiction", f"{plural(n, 'cluster')} of scans that look alike with more than one label")
    exposed = sheet.get("privacy", {})
    for name, what in (
        ("text", "likely with burned-in text"),
        ("face", "of a head, likely with its face"),
    ):
        if n := len(exposed.get(name, ())):
            line("privacy", f"{plural(n, 'scan')} {what}")
    chosen = sheet.get("series") or []
    for k, entry in enumerate(chosen[:SERIES_SHOWN]):
        line("" if k else "series", f"{entry['id']}: {entry['chosen']}")
    if len(chosen) > SERIES_SHOWN:
        line("", f"... and {len(chosen) - SERIES_SHOWN} more chosen by the rule, in datasheet.json")
    for reason, n in sheet["refused"].items():
        line("refused", f"{n} x {reason}")
    for entry in sheet["refused_files"][:FILES_SHOWN]:
        line("", f"{entry['file']}: {entry['reason']}")
    if len(sheet["refused_files"]) > FILES_SHOWN:
        line("", f"... and {len(sheet['refused_files']) - FILES_SHOWN} more, in datasheet.json")
    for note in sheet["notes"]:
        line("note", note)


def _table(sheet: dict):
    """Examples, patients and classes of each split."""
    from rich.table import Table
    from rich.text import Text

    labelled = sheet["task"] is not None
    table = Table(show_edge=False, pad_edge=False, header_style="dim")
    headings = ["split", "examples", "patients", *([*sheet["classes"], "no label"] if labelled else [])]
    for i, heading in enumerate(headings):
        table.add_column(Text(heading), justify="left" if i == 0 else "right")
    for split, n in sheet["examples"].items():
        patients = sheet["patients"][split]
        row = [split, str(n), "unknown" if patients is None else str(patients)]
        if labelled:
            row += [str(sheet["class_counts"][split][name]) for name in sheet["classes"]]
            row.append(str(sheet["unlabelled"][split]))
        table.add_row(*row)
    return table
