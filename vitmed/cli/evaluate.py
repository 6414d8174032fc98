"""How good a trained classifier, or a segmentation, is on a split, with 95% intervals.

  vitmed evaluate runs/chest
  vitmed evaluate runs/chest --split val
  vitmed evaluate runs/chest --dataset data/other_hospital
  vitmed evaluate runs/chest --by site
  vitmed evaluate runs/hippocampus --tolerance 2

Intervals come from resampling patients, thresholds from the validation split. Which kind of interval a
number has stands beside it. With --by the same numbers follow for each group, at the same thresholds; a group
of fewer than ten patients, or fewer than five with one of the classes, is said to be too small and gets no
numbers.

Of a run that gives masks: Dice, NSD (the share of both surfaces within --tolerance of the other) and HD95 of each structure,
means over scans on the dataset's own grid. A scan counts for a structure if it is in the true mask or in the predicted one; if
it is in one alone, Dice and NSD are 0, and HD95, which is infinite there, counts as failed and is the mean over the others.

The numbers and every prediction are written to RUN/evaluations/SPLIT/. Each evaluation is counted in RUN/ledger.json: a test
split that is opened again and again while choosing is no test any more.
"""

from vitmed import words

HELP = "metrics of a trained run on a split, each with its 95% interval"


def arguments(parser):
    parser.add_argument(
        "run", metavar="RUN", help="folder of a fine-tuned run (the --workdir of its training)"
    )
    parser.add_argument("--dataset", metavar="D", help="another dataset than the one it was trained on")
    parser.add_argument("--split", default="test", metavar="NAME", help="train, val or test (default: test)")
    parser.add_argument(
        "--which", default="last", choices=("last", "best"), help="checkpoint (default: last)"
    )
    parser.add_argument(
        "--by",
        action="append",
        default=[],
        metavar="COLUMN",
        help="numbers by group too: site, or another column stored with the dataset, or a label of a "
        "multi-label set; may be given several times",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="MM",
        help="of NSD, in millimetres, or in pixels where no spacing is known (default: 1)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the bootstrap (default: 0)")


def run(args) -> dict:
    from vitmed.runs.folder import locate

    locate(args.run)  # said at once, before the heavy rooms are opened

    from rich.console import Console

    from vitmed.evaluate.evaluate import evaluate

    result = evaluate(
        args.run,
        args.dataset,
        args.split,
        args.which,
        args.seed,
        args.by,
        quiet=False,
        tolerance=args.tolerance,
    )
    show(result, Console(stderr=args.json))
    return result


def show(result: dict, console) -> None:
    """Prints the numbers, where they come from, and the confusion matrix."""
    from rich.table import Column, Table
    from rich.text import Text

    console.print(f"{result['run']} on {result['dataset']}", highlight=False, markup=False)
    show_metrics(result, console, result["split"])
    if result["threshold_from"] == "val":
        chosen = ", ".join(f"{name} from {x:.3f}" for name, x in result["threshold"].items())
        console.print(f"thresholds, from validation: {chosen}", highlight=False, markup=False)
    for note in result["notes"]:
        console.print(f"note: {note}", highlight=False, markup=False)
    for title, classes, counts in _tables(result["confusion"]):
        shown = Table(*(Column(Text(head)) for head in (title, *(f"said {name}" for name in classes))))
        for name, row in zip(classes, counts, strict=True):
            shown.add_row(Text(f"is {name}"), *map(str, row))
        console.print(shown)
    for column, groups in result["subgroups"].items():
        _show_groups(column, groups, result["notes"], console)
    console.print(f"written to {result['folder']}", highlight=False, markup=False)


def show_metrics(result: dict, console, split: str) -> None:
    """Prints the numbers, their kinds of interval and on how much they rest."""
    from rich.table import Table
    from rich.text import Text

    times = result["opened"]
    opened = f"{split} split opened {words.plural(times, 'time')}"
    if result["task"] == "segmentation":
        _show_structures(result, opened, console)
    else:
        numbers = Table("metric", "value", "95% interval", "kind", caption=opened, caption_justify="left")
        numbers.columns[1].justify = numbers.columns[2].justify = "right"
        for metric, number in result["metrics"].items():
            name = Text(metric.replace("_", " "))  # with that of a class, which may hold brackets
            if number["value"] is None:
                numbers.add_row(name, "-", "not computable", "")
            else:
                numbers.add_row(name, *_shown(number), number["interval"] or "")
        console.print(numbers)
    for kind, text in result["intervals"].items():
        console.print(f"interval {kind}: {text}", highlight=False, markup=False)
    boot = result["bootstrap"]
    who = (
        words.plural(result["patients"], "patient") if result["patients"] is not None else "patients unknown"
    )
    console.print(
        f"{words.plural(result['examples'], 'example')}, {who}; {boot['resamples']} resamples by {boot['unit']}, "
        f"seed {boot['seed']}; checkpoint {result['checkpoint']}",
        highlight=False,
    )


def _show_structures(result: dict, opened: str, console) -> None:
    """A row a structure, and one for their mean: each metric with its interval, and what failed."""
    from rich.table import Table
    from rich.text import Text

    unit = "mm" if result["tolerance"]["unit"] == "mm" else "px"
    near = f"{result['tolerance']['value']:g} {unit}"
    heads = {"dice": "Dice", "nsd": f"NSD at {near}", "hd95": f"HD95, {unit}"}
    table = Table(
        "structure", *heads.values(), "scans", "missed", "invented", caption=opened, caption_justify="left"
    )
    for column in table.columns[1:]:
        column.justify = "right"

    def cells(suffix):
        for metric in heads:
            number = result["metrics"].get(f"{metric}{suffix}", {"value": None})
            digits = 2 if metric == "hd95" else 3
            value, between = (
                _shown(number, digits) if number["value"] is not None else ("-", "not computable")
            )
            yield f"{value}\n[dim]{between}[/]"

    for name, count in result["failures"].items():
        counts = (count["scans"], count["missed"], count["invented"])
        table.add_row(Text(name), *cells(f"/{name}"), *map(str, counts))
    if len(result["failures"]) > 1:
        table.add_section()
        table.add_row("mean", *cells(""), "", "", "")
    console.print(table)


def _show_groups(column: str, groups: list[dict], said: list[str], console) -> None:
    """The groups with their sizes, then each number group by group, so that they can be compared."""
    from rich.table import Column, Table
    from rich.text import Text

    sizes = Table(Column(Text(column)), "examples", "patients", "")
    sizes.columns[1].justify = sizes.columns[2].justify = "right"
    numbers = Table("metric", Column(Text(column)), "value", "95% interval", "kind")
    numbers.columns[2].justify = numbers.columns[3].justify = "right"
    for group in groups:
        patients = "unknown" if group["patients"] is None else str(group["patients"])
        own = [note for note in group["notes"] if note not in said]
        why = "; ".join([f"too small: {group['too_small']}"] if group["too_small"] else own)
        sizes.add_row(Text(group["group"] or "unknown"), str(group["examples"]), patients, Text(why))
    names = dict.fromkeys(name for group in groups for name in group["metrics"] if "/" not in name)
    for metric in names:
        numbers.add_section()
        for group in groups:
            number = group["metrics"].get(metric)
            if number:
                shown = _shown(number) if number["value"] is not None else ("-", "not computable")
                name = Text(group["group"] or "unknown")
                numbers.add_row(metric.replace("_", " "), name, *shown, number["interval"] or "")
    console.print(sizes)
    if names:
        console.print(numbers)


def _shown(number: dict, digits: int = 3) -> tuple[str, str]:
    low, high = number["low"], number["high"]
    between = "-" if low is None else f"{low:.{digits}f} to {high:.{digits}f}"
    return f"{number['value']:.{digits}f}", between


def _tables(confusion: dict | None):
    """Title, class names and counts of each table of counts."""
    if confusion is None:
        return []
    if "counts" in confusion:
        return [("", confusion["classes"], confusion["counts"])]
    return [(name, ("no", "yes"), counts) for name, counts in confusion["columns"].items()]
