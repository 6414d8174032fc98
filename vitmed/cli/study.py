"""Run many trainings as one experiment and make one table of them.

  vitmed study --config configs/study/pneumoniamnist.py --workdir studies/chest --config.data.path=data/chest

Every way to a model (pretrained, from scratch, a CNN) is trained at every label budget, several times with
other labels drawn, and each is evaluated once on the test split. The table gives every metric with its 95%
interval, and the paired difference between each arm and the reference. The same command goes on from where
the study stands; draws, budgets and arms can be added later.

Any key can be given as --config.KEY=VALUE, for example --config.study.draws=5 (or one a budget, "(5,3)") or
--config.arms.scratch.config.optim.lr=1e-3. --config.study.split=val shows the table on validation, for
choosing.
"""

HELP = "many runs as one experiment: initialisations x label budgets x draws, one table"
TAKES_CONFIG = True
GOES_ON = True


def arguments(parser):
    parser.add_argument(
        "--config", required=True, metavar="FILE.py[:ARG]", help="the study, e.g. configs/study/labels.py"
    )
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="folder of the study; made if it is not there"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs at a time; the cores are split between them"
    )


def run(args) -> dict:
    from pathlib import Path

    from rich.console import Console
    from rich.markdown import Markdown

    from vitmed import config
    from vitmed.study.study import study

    result = study(config.load(args.config, args.overrides), Path(args.workdir), args.jobs)
    console = Console(stderr=args.json)
    console.print(Markdown(Path(result["table"]).with_suffix(".md").read_text()))
    console.print(f"table: {result['table']}", highlight=False)
    return result
