"""Run many trainings as one experiment and make one table of them.

  vitmed study --config configs/study/label_efficiency.py --workdir studies/chest --config.data.path=data/chest

Every way to a model (pretrained, from scratch, a CNN) is trained at every label budget, several times with
other labels drawn, and each is evaluated once on the test split. The table gives every metric with its 95%
interval, and each comparison with one sentence that says whether the difference is real; DIR/report.html has it
with curves. The same command goes on from where the study stands; draws, budgets and arms can be added later.

The protocol is kept for you: a pretraining that would see a validation or test scan (by its pixels), a run to start from
that has seen one, and an arm that would learn or choose by the test split end the study before it starts; labels of the
validation split that decided anything are counted in the table, every arm tries the same number of settings, and of
several baselines the best on validation is the one to beat.

Any key can be given as --config.KEY=VALUE, for example --config.study.draws=5 (or one a budget, "(5,3)"),
--config.study.pretrain_seeds=3 or --config.arms.scratch.config.optim.lr=1e-3. --config.study.split=val shows the
table on validation, for choosing. Of datasets made by `ingest --split fold:K/5` give
--config.data.path="data/mine-{fold}" --config.data.folds=5 (--config.study.folds="(1,5)": how many a budget).
"""

from vitmed.parallel import determinism

HELP = "many runs as one experiment: initialisations x label budgets x draws, one table"
TAKES_CONFIG = True


def goes_on(args) -> str:
    return "what was saved"


def arguments(parser):
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE.py[:ARG]",
        help="the study, e.g. configs/study/label_efficiency.py",
    )
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="folder of the study; made if it is not there"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="runs at a time; cores and NVIDIA GPUs are split between them, as many GPUs to each",
    )
    determinism.argument(parser)


def run(args) -> dict:
    from pathlib import Path

    from rich.console import Console
    from rich.markdown import Markdown

    from vitmed import config
    from vitmed.report import page
    from vitmed.study.config import StudyConfig
    from vitmed.study.study import study

    values = config.load(args.config, args.overrides, StudyConfig)
    result = study(values, Path(args.workdir), args.jobs)
    result["report"] = page.write(Path(args.workdir) / "report.html", studies=[args.workdir])["report"]
    console = Console(stderr=args.json)
    console.print(Markdown(Path(result["table"]).with_suffix(".md").read_text()))
    console.print(f"table: {result['table']}\nreport: {result['report']}", highlight=False, markup=False)
    return result
