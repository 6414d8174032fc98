"""Take a patient out of a dataset, and list the runs that were made from it.

  vitmed withdraw P0123 data/chest
  vitmed withdraw P0123 data/chest --runs runs/ --runs studies/

PATIENT is the patient's own id, which the key of pseudonyms turns into the dataset's, or that pseudonym. All scans
of the patient leave; nobody else is moved between splits. The dataset is written anew beside the old one and takes
its place. What was learned from the patient stays in models: the runs made from the dataset as it was, and those
that started from them, are listed, so that they can be made again.
"""

from vitmed import words

HELP = "a patient taken out of a dataset; the runs made from it, listed"


def arguments(parser):
    parser.add_argument(
        "patient", metavar="PATIENT", help="the patient's id, or the pseudonym in the dataset"
    )
    parser.add_argument("dataset", metavar="DATASET", help="a folder made by vitmed ingest")
    parser.add_argument(
        "--key",
        metavar="FILE",
        help="the key of pseudonyms that ingest named (default: $VITMED_KEY, or ~/.config/vitmed/pseudonyms.key)",
    )
    parser.add_argument(
        "--runs",
        action="append",
        metavar="DIR",
        help="a folder to look for runs in, at any depth; may be given several times (default: here)",
    )


def run(args) -> dict:
    import sys
    from pathlib import Path

    from vitmed.data.withdraw import withdraw
    from vitmed.errors import InputError
    from vitmed.report import datasheet
    from vitmed.runs.lineage import made_from

    folders = [Path(folder) for folder in args.runs or ["."]]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"--runs {folder} is not a folder")
    result = withdraw(args.patient, args.dataset, args.key)
    page = datasheet.write(args.dataset)
    runs = made_from(result["content_hashes"], folders)
    if not args.json:
        print(
            f"{words.plural(result['withdrawn'], 'scan')} of patient {result['patient']} taken out of {args.dataset}"
        )
        looked = ", ".join(str(folder.resolve()) for folder in folders)
        print(f"runs made from it, under {looked}:" if runs else f"no run was made from it under {looked}")
        for found in runs:
            print(f"  {found['run']}" + (f" (started from {found['from']})" if found["from"] else ""))
    elif not runs:
        print(f"no run was made from it under {', '.join(map(str, folders))}", file=sys.stderr)
    return {**result, "page": str(page), "runs": runs}
