"""The datasheet of a dataset: what it holds, what was refused and why, copies among its examples.

  vitmed inspect data/chest

Copies are examples of equal pixels. A copy of a training scan among the test scans makes a test number too
good; equal pixels with different labels are a contradiction that no model can resolve.
"""

HELP = "what a dataset holds, what was refused and why, copies among its examples"
FILES_SHOWN = 10


def arguments(parser):
    parser.add_argument("dataset", metavar="DATASET", help="a folder made by vitmed ingest")


def run(args) -> dict:
    from rich.console import Console

    from vitmed.data.datasheet import read

    sheet = read(args.dataset)
    show(sheet, args.dataset, Console(stderr=args.json, soft_wrap=True))
    kept = ("examples", "patients", "refused", "duplicates", "contradictions")
    return {"dataset": str(args.dataset), **{key: sheet[key] for key in kept}}


def show(sheet: dict, path, console) -> None:
    """Prints a datasheet for people."""
    from rich.markup import escape

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
    mean, std = (", ".join(f"{v:.4g}" for v in sheet["intensity"][key]) for key in ("mean", "std"))
    unit = "HU" if sheet["unit"] == "HU" else "of their own range"
    line("intensity", f"mean {mean}, std {std} {unit}, clipped to {low:g} .. {high:g}")
    how, by = sheet["splits"]["how"], sheet["splits"]["by"]
    drawn = f"{how} by {by}, seed {sheet['splits']['seed']}"
    line("splits", {"given": "as they came", "train": "all to train"}.get(how, drawn))
    console.print(_table(sheet))
    if sheet["duplicates"]:
        copies = [
            f"{n} in {where}" if "/" not in where else f"{n} across {where}"
            for where, n in sheet["duplicates"].items()
            if n
        ]
        line("exact copies", ", ".join(copies) or "none")
    if sheet["contradictions"]:
        n = sheet["contradictions"]
        line("contradiction", f"{n} image{'s' * (n > 1)} with more than one label")
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
