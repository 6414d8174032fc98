"""Make one self-contained HTML page of runs, studies and datasets.

  vitmed report runs/mae runs/chest --out report.html
  vitmed report studies/chest --out report.html

Each argument is the folder of a run, of a study or of a dataset; the datasets that runs were trained on are
found by themselves. The page loads nothing from the network, so it can be mailed and opened years later.
"""

HELP = "one self-contained HTML page: data, reconstructions, losses, comparisons, where numbers came from"


def arguments(parser):
    parser.add_argument("folders", nargs="+", metavar="RUN", help="folder of a run, a study or a dataset")
    parser.add_argument("--out", required=True, metavar="report.html", help="the page to write")
    parser.add_argument("--title", help="its title; made from the names if left out")


def run(args) -> dict:
    import sys
    from pathlib import Path

    from vitmed.errors import InputError
    from vitmed.report import gather, page

    if Path(args.out).is_dir():
        raise InputError(
            f"--out {args.out} is a folder; give the page's file, such as {args.out}/report.html"
        )
    found = {"run": [], "study": [], "dataset": []}
    for folder in args.folders:
        found[gather.kind(Path(folder))].append(folder)
    print("drawing the page ...", file=sys.stderr, flush=True)
    result = page.write(args.out, found["run"], found["dataset"], found["study"], args.title)
    if not args.json:
        print(f"report: {result['report']}")
    return result
