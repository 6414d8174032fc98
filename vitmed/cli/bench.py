"""Measure how fast training goes here.

  vitmed bench step                         MAE ViT-B/16, 224 x 224 x 3: images a second and share of the machine's ceiling
  vitmed bench step --peer transformers     the same beside ViTMAE in eager PyTorch, step by step in turn
  vitmed bench step --config configs/pretrain_mae.py:s16,224 --batch 16
  vitmed bench loop --config configs/pretrain_mae.py --config.data.path=DATASET
                                            what the loop (data, logging, checkpoints) adds to the bare step
  vitmed bench load                         images a second of the loader, beside PyTorch's and MONAI's over the same scans
  vitmed bench ingest                       files a second from DICOM or NIfTI to a dataset, one process, beside plain loops of
                                            pydicom and SimpleITK that decode the same files and keep nothing

Peers are installed by the extra: pip install 'vitmed[bench]'. Numbers are medians; close other programs first.
"""

from vitmed.parallel import determinism

HELP = "measure the training step, the loader and ingest (also against peers), and what the loop adds"
TAKES_CONFIG = True


def arguments(parser):
    parser.add_argument(
        "what", choices=("step", "loop", "load", "ingest"), metavar="WHAT", help="step, loop, load or ingest"
    )
    parser.add_argument(
        "--config", metavar="FILE.py[:ARG]", help="a training config (step: default MAE b16,224, 3 channels)"
    )
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME",
        help="compare with this library (step: transformers, if named; load: torch, monai, by default those installed)",
    )
    parser.add_argument(
        "--batch", type=int, metavar="N", help="step, load: images at a time (default: step 8, load 256)"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        metavar="N",
        help="rounds the medians are of (default: step and load 5, loop and ingest 3)",
    )
    parser.add_argument(
        "--steps", type=int, default=200, metavar="N", help="loop: steps a round (default: 200)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=2,
        metavar="N",
        help="load: threads, and a peer's processes (default: 2)",
    )
    parser.add_argument(
        "--scans",
        type=int,
        default=1024,
        metavar="N",
        help="load: simulated scans to draw from; ingest: DICOM images, and as many slices of series (default: 1024)",
    )
    determinism.argument(parser)


def run(args) -> dict:
    from rich.console import Console

    from vitmed.errors import InputError

    for name, least in (("batch", 1), ("repeats", 1), ("steps", 2), ("workers", 1), ("scans", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise InputError(f"--{name} is {value}; at least {least} was expected")
    if args.what in ("load", "ingest") and (args.config or args.overrides):
        alone = "the loader" if args.what == "load" else "ingest"
        raise InputError(
            f"bench {args.what} times {alone} alone, over scans that it makes; leave out --config"
        )
    if args.what == "ingest" and (args.peer or args.batch):
        raise InputError(
            "bench ingest always has its two peers, and no batches; leave out --peer and --batch"
        )
    if args.config is None and (args.what == "loop" or args.overrides):
        raise InputError(
            f"bench {args.what} needs --config to know what to {'train' if args.what == 'loop' else 'override'}"
        )

    from vitmed import config
    from vitmed.job.config import Config
    from vitmed.scale import bench, load

    if args.what == "ingest":
        from vitmed.scale.ingesting import KINDS, ingesting

        result = ingesting(args.scans, repeats=args.repeats or 3)
        console = Console(stderr=args.json)
        for kind, (name, _) in KINDS.items():
            console.print(
                f"{result['files'][kind]} {kind}: vitmed ingests {result['files_per_second'][kind]} files/s, {name} alone "
                f"decodes {result['peers'][kind]}: {result['ratio'][kind]} of it, {result['cpu_ratio'][kind]} by processor time",
                highlight=False,
            )
        return result
    peers = tuple(dict.fromkeys(args.peer))
    if args.what == "load":
        result = load.load(args.batch or 256, args.workers, args.repeats or 5, peers or None, args.scans)
        for name in result["left_out"]:
            Console(stderr=True).print(
                f"{name} is not installed, so it is left out; pip install 'vitmed[bench]'", markup=False
            )
        _tell(
            Console(stderr=args.json),
            f"vitmed {result['images_per_second']} images/s from disk, {result['cached_images_per_second']} from "
            f"memory ({result['workers']} threads, batch {result['batch']}, median of {result['repeats']})",
            result,
        )
        return result
    values = config.load(args.config, args.overrides, Config) if args.config else None
    console = Console(stderr=args.json)
    if args.what == "loop":
        result = bench.loop(values, args.steps, args.repeats or 3)
        console.print(
            f"loop {result['images_per_second']} images/s, bare step {result['bare_images_per_second']}: "
            f"overhead {result['overhead']:.1%}, of it waiting for data {result['data_wait']:.1%}",
            highlight=False,
        )
        return result
    setting = bench.Setting.of(values) if values else bench.Setting()
    result = bench.step(setting, args.batch or 8, args.repeats or 5, peers)
    _tell(
        console,
        f"vitmed {result['images_per_second']} images/s, {result['mfu']:.0%} of {result['ceiling_gflops']} GFLOP/s "
        f"({result['threads']} threads, batch {result['batch']}, median of {result['repeats']})",
        result,
    )
    return result


def _tell(console, ours: str, result: dict) -> None:
    console.print(ours, highlight=False)
    for name, speed in result["peers"].items():
        console.print(
            f"{name} {speed} images/s: vitmed is {result['ratio'][name]} times as fast", highlight=False
        )
