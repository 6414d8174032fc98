"""Know before you pay: what a training needs of hardware that is not here, or what the machine here can train.

  vitmed plan --config configs/pretrain_mae.py:l16,224 --config.train.batch_size=4096 --topology v5e:16x16
  vitmed plan --config configs/pretrain_mae.py:l16,224 --topology v5p:4x4x4 --price-per-chip-hour 4.20 --try
  vitmed plan --config configs/pretrain_mae.py:b8,96x96x96 --topology h100:8
  vitmed plan --config configs/pretrain_mae.py:b16,224 --fit --memory 8GB --hours 2
  vitmed plan --config configs/finetune_classify.py --config.init_from=runs/mae --config.model.variant=l \\
      --config.data.size=224,224 --fit --memory 8GB      all of it, or else a low-rank change (LoRA)

For a TPU the very step is compiled by the TPU's own compiler, which needs no TPU (pip install 'vitmed[plan]') and takes
minutes; bytes and cycles are its own. GPUs have no compiler that could be asked, so theirs is a roofline, marked as an
estimate. Where the config does not fit, or with --try, other ways to run it are tried and the best is recommended.
No dataset is opened: the config says the size of its scans.

Topologies: v4, v5e, v5p, v6e with a slice's shape (v5e:4x4, v5p:4x4x8), and a100, h100, h200 with a number of GPUs.
"""

HOURS = 2.0  # of a training, by default
HELP = "what a training needs of hardware that is not here (fits? how fast? cost?), or what this machine can train"
TAKES_CONFIG = True


def arguments(parser):
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE.py[:ARG]",
        help="the training; ARG such as l16,224 or b8,96x96x96",
    )
    parser.add_argument("--topology", metavar="CHIP:SHAPE", help="such as v5e:16x16, v5p:4x4x4, h100:8")
    parser.add_argument(
        "--price-per-chip-hour", type=float, metavar="X", help="gives the cost, in the currency of X"
    )
    parser.add_argument(
        "--examples", type=int, metavar="N", help="scans trained on, for a config that counts epochs"
    )
    parser.add_argument(
        "--try",
        dest="search",
        action="store_true",
        help="try sharding x rematerialisation x batch, even where it fits",
    )
    parser.add_argument(
        "--as-is",
        action="store_true",
        help="compile unrolled layers unrolled, which takes several times as long",
    )
    parser.add_argument(
        "--fit",
        action="store_true",
        help="in place of --topology: what fits this machine's memory and --hours",
    )
    parser.add_argument("--memory", metavar="SIZE", help="--fit: such as 8GB, in place of what is found here")
    parser.add_argument(
        "--hours", type=float, metavar="H", help=f"--fit: for the training (default: {HOURS:g})"
    )


def run(args) -> dict:
    from vitmed.errors import InputError

    if args.fit == bool(args.topology):
        raise InputError("give --topology, such as v5e:16x16, or --fit for the machine that this runs on")
    if args.topology and (args.memory is not None or args.hours is not None):
        raise InputError("--memory and --hours are for --fit; leave them out beside --topology")
    for name in ("price_per_chip_hour", "examples", "hours"):
        if getattr(args, name) is not None and getattr(args, name) <= 0:
            raise InputError(
                f"--{name.replace('_', '-')} is {getattr(args, name)}; a positive number was expected"
            )
    return _fit(args) if args.fit else _topology(args)


def _topology(args) -> dict:
    from rich.console import Console

    from vitmed.scale.hardware import Topology

    topology = Topology.of(args.topology)
    if topology.chip.compiled_for:
        from vitmed.scale import ahead

        ahead.prepare()
    from vitmed import config
    from vitmed.job.config import Config
    from vitmed.scale.plan import plan

    values = config.load(args.config, args.overrides, Config)
    result = plan(values, topology, args.price_per_chip_hour, args.examples, args.search, args.as_is)
    console = Console(stderr=args.json, highlight=False)
    for line in told(result):
        console.print(line, markup=False, soft_wrap=True)
    return result


def _fit(args) -> dict:
    from rich.console import Console

    from vitmed import config
    from vitmed.job.config import Config
    from vitmed.scale.fit import fit

    values = config.load(args.config, args.overrides, Config)
    result = fit(values, args.hours or HOURS, _bytes(args.memory), args.examples)
    rate = result["rate"]
    lines = [
        f"{rate['devices']} x {rate['device']}: {rate['flops'] / 1e9:,.0f} GFLOP/s, measured by {rate['by']}; "
        f"{result['memory'] / 1e9:.1f} GB",
    ]
    for one in result["considered"]:
        keys = " ".join(f"{key.partition('.')[2]}={value}" for key, value in one["settings"].items())
        end = f"{one['hours']:,.1f} hours" if one["fits"] else "does not fit"
        lines.append(f"{keys}: {one['bytes_per_chip'] / 1e9:.1f} GB (estimated), {end}")
    if result["reduced"]:
        lines.append(
            f"even the smallest needs longer than {args.hours or HOURS:g} hours: fewer steps than the config's"
        )
    words = " ".join(f"--config.{key}={_typed(value)}" for key, value in result["choice"].items())
    lines.append(f"take: --config {args.config} {words}  ({result['choice_hours']:.1f} hours)")
    for line in lines:
        Console(stderr=args.json, highlight=False).print(line, markup=False, soft_wrap=True)
    return result


def _bytes(text: str | None) -> int | None:
    """``8GB``, ``7.5GiB``."""
    import re

    from vitmed.errors import InputError

    if text is None:
        return None
    found = re.fullmatch(r"([0-9.]+) ?([KMGT])(i?)B", text.strip(), re.IGNORECASE)
    try:
        power = "KMGT".index(found[2].upper()) + 1
        return int(float(found[1]) * (1024 if found[3] else 1000) ** power)
    except (TypeError, ValueError):
        raise InputError(f"--memory is {text!r}; a size such as 8GB or 7.5GiB was expected") from None


def _typed(value) -> str:
    """A value as it is typed in a shell."""
    import shlex

    return shlex.quote(str(tuple(value)) if isinstance(value, list) else str(value))


def told(result: dict) -> list[str]:
    """The plan in sentences."""
    gib = 2**30
    need, there = result["bytes_per_chip"] / gib, result["memory_per_chip"] / gib
    word = "fits" if result["fits"] else "DOES NOT FIT"
    room = (
        f"{there - need:.1f} GiB to spare" if result["fits"] else f"{max(need - there, 0):.1f} GiB too much"
    )
    kinds = ", ".join(f"{kind} {n / gib:.2f}" for kind, n in result["bytes_by_kind"].items())
    lines = [
        f"{result['topology']} ({result['chips']} chips): {word}, {need:.2f} of {there:.1f} GiB a chip ({kinds}), {room}",
        f"by: {result['method']}",
        f"a chip and step: {result['flops_per_chip'] / 1e12:.3f} TFLOP, "
        f"{result['collective_bytes_per_chip'] / 1e6:.1f} MB sent"
        + "".join(f", {kind} {n / 1e6:.1f}" for kind, n in result["collective_bytes_by_kind"].items()),
    ]
    if result["fits"]:
        cycles = "" if result["cycles"] is None else f"{result['cycles']:,} cycles: "
        cost = "" if result["cost"] is None else f", {result['cost']:,.2f} for {result['chips']} chips"
        lines += [
            f"a step: {cycles}{result['compute_seconds'] * 1e3:.1f} ms, and {result['collective_seconds'] * 1e3:.1f} ms "
            f"of collectives: {result['images_per_second']:,.0f} images/s, MFU {result['mfu']:.0%}",
            f"the whole: {result['steps']:,} steps in {result['hours']:,.1f} hours{cost}",
        ]
    lines += [f"note: {note}" for note in result["notes"]]
    for one in result["tried"]:
        speed = f"{one['images_per_second']:,.0f} images/s" if one["fits"] else "does not fit"
        lines.append(f"tried {_keys(one['settings'], result['settings'])}: {speed}")
    if result["recommended"]:
        lines.append(f"recommended: {_keys(result['recommended'], result['settings'])}")
    return lines


def _keys(settings: dict, than: dict) -> str:
    """What differs, as it is typed."""
    changed = {key: value for key, value in settings.items() if value != than[key]}
    return (
        " ".join(f"--config.{key}={_typed(value)}" for key, value in changed.items()) or "the config as it is"
    )
