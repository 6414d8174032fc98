"""Train by a config file: pretraining, fine-tuning, any objective.

  vitmed train --config configs/pretrain_mae.py --workdir runs/mae --config.data.path=data/chest
  vitmed train --config configs/finetune_classify.py --workdir runs/chest \\
      --config.data.path=data/chest --config.init_from=runs/mae

With few labels, configs/semi_masked.py and configs/semi_teacher.py learn from the scans without labels too:
--config.data.labels=40 is the label budget, and the rest of the split is used without its labels.
--config.guard.folds=3 keeps supervised fine-tuning unless that is beaten in cross-validation within the budget, at
the cost of six more trainings.

Any key of the config can be given as --config.KEY=VALUE. The same command goes on from where the run stands:
killed and started again, it ends with the same weights to the bit.
"""

from vitmed.parallel import determinism

HELP = "train by a config file: pretraining or fine-tuning; goes on from where the run stands"
TAKES_CONFIG = True
TOGETHER = True


def goes_on(args) -> str:
    return "what was saved"


def arguments(parser):
    parser.add_argument(
        "--config", required=True, metavar="FILE.py[:ARG]", help="the experiment; ARG such as b16,224 or tiny"
    )
    parser.add_argument(
        "--workdir", required=True, metavar="RUN", help="folder of the run; made if it is not there"
    )
    parser.add_argument(
        "--show-sharding",
        action="store_true",
        help="print first how each array is split over the devices, the bytes a device, and what a step sends",
    )
    determinism.argument(parser)


def run(args) -> dict:
    from vitmed import config
    from vitmed.job.config import Config
    from vitmed.train import train

    values = config.load(args.config, args.overrides, Config)
    return train(values, args.workdir, show_sharding=args.show_sharding)
