"""Published weights in, as a run that others can start from; a run's own weights out, and in again.

  vitmed convert dinov2_vitb14.safetensors --out runs/dinov2 --modality xray --channels 1
  vitmed train --config configs/finetune_classify.py --workdir runs/mine --config.data.path=data/mine \\
      --config.init_from=runs/dinov2 --config.model.variant=b ...     (convert prints the keys that are needed)
  vitmed convert runs/mae --to safetensors --out mae.safetensors

SOURCE is a .safetensors or .npz file of MAE, DINOv2 or DINOv3 (facebookresearch's names), of a ViT of timm, or of ViT,
ViTMAE, Dinov2 or DINOv3 of transformers; so RETFound (MAE) and RAD-DINO (Dinov2) too. Which it is is told by its names;
one that is missing or not known ends the verb. Of PyTorch pickles (.pth) tensors alone are read, and that needs the extra
`torch`. A config.json and preprocessor_config.json of transformers beside SOURCE are heeded.

No file says what the images were: --modality does. Scans are brought to 0..1 by the modality's window, then normalised by
the model's mean and std. With --channels, each channel of the model is shown the mean of so many: a grey scan gives the
tokens of the picture that repeats it in red, green and blue.

A run's weights come in again as a run that answers as it did, by vitmed predict and, with --dataset, vitmed evaluate. Their
file holds nothing of single scans.
"""

HELP = "published weights (MAE, DINOv2, DINOv3, timm, transformers) to a run; a run's to safetensors"

# Of a datasheet, what a run must know of its dataset to be used; none of it tells of single scans or of where they lay.
_KEPT = (
    *("name", "modality", "unit", "window", "channels", "size", "spacing", "dtype", "intensity"),
    *("task", "classes", "learned_from", "simulated", "content_hash"),
)
# Of ``config.data``, what says how much of a scan the model is shown, and what thresholds are chosen on.
_ASKED = ("crop", "val_split")


def arguments(parser):
    parser.add_argument("source", metavar="SOURCE", help="a file of weights, or with --to a run folder")
    parser.add_argument("--out", required=True, metavar="PATH", help="the run to make, or the file")
    parser.add_argument("--to", choices=["safetensors"], help="write a run's weights in this format")
    parser.add_argument("--modality", metavar="M", help="of the scans: xray, ct, mr, ultrasound, unknown")
    parser.add_argument("--channels", type=int, metavar="N", help="of the scans (default: the model's own)")
    parser.add_argument("--size", metavar="Y,X", help="of the images it was trained on (default: square)")
    parser.add_argument("--heads", type=int, metavar="N", help="of attention (default: as published)")
    parser.add_argument(
        "--mean", metavar="R,G,B", help="of images in 0..1, one a channel (default: as published)"
    )
    parser.add_argument("--std", metavar="R,G,B", help="likewise")


def run(args) -> dict:
    from pathlib import Path

    source, out = Path(args.source), Path(args.out)
    return _export(source, out, args) if args.to else _import(source, out, args)


def _export(run, out, args) -> dict:
    import jax

    from vitmed.data.structures import structures_of
    from vitmed.errors import InputError
    from vitmed.runs import folder, load
    from vitmed.scans.how import How
    from vitmed.weights import ours

    folder.locate(run)
    if out.suffix != ".safetensors":
        raise InputError(f"--out {out} does not end in .safetensors; name the file so")
    if out.exists() or not out.parent.is_dir():
        raise InputError(f"--out {out} exists already, or its folder does not; give it a new path")
    params, sheet, config = load(run), folder.datasheet_of(run), folder.config_of(run)
    kept = {key: sheet[key] for key in _KEPT if key in sheet}
    # Structures that nobody named are called by the values that are counted in the scans.
    kept |= {"structures": dict(structures_of(sheet))}
    if "plan" in sheet:
        kept |= {"plan": {k: v for k, v in sheet["plan"].items() if k in ("spacing", "size", *How().told())}}
    about = {
        "format": 1,
        "recipe": folder.recipe_of(run).to_json(),
        "objective": config.objective.to_dict(),
        "data": {key: config.data[key] for key in _ASKED if key in config.data},
        "dataset": kept,
    }
    ours.write(out, params, about)
    count = sum(x.size for x in jax.tree.leaves(params))
    if not args.json:
        print(f"{out}: {count / 1e6:.1f} M parameters of {run}, with its recipe")
    return {"out": str(out), "parameters": count}


def _import(source, out, args) -> dict:
    import jax

    from vitmed.runs import folder
    from vitmed.weights import files, ours

    folder.place(out)
    arrays, metadata = files.read(source)
    made = (_ours if ours.KEY in metadata else _published)(source, arrays, metadata, args)
    recipe, params, config, sheet, result = made
    _write(out, recipe, params, config, sheet)
    count = sum(x.size for x in jax.tree.leaves(params))
    result = {"run": str(out), "out": str(out), "parameters": count, "model": recipe.model, **result}
    if not args.json:
        print(f"{out}: {result['layout']}, {count / 1e6:.1f} M parameters; start from it with")
        print("  " + " ".join([f"--config.init_from={out}", *_keys(recipe)]))
    return result


def _ours(source, arrays, metadata, args):
    from vitmed.scans.recipe import Recipe
    from vitmed.weights import ours

    _refuse(args, ("modality", "channels", "size", "heads", "mean", "std"), "is in the file's own recipe")
    params, about = ours.read(source, arrays, metadata)
    recipe = Recipe.from_text(about["recipe"], source)
    config = {"objective": about["objective"], "data": about.get("data", {})}
    return recipe, params, config, about["dataset"], {"layout": "vitmed", "left_out": []}


def _published(source, arrays, metadata, args):
    """Recipe, parameters, sections of the config and datasheet of the run to make, and what to tell of it."""
    import dataclasses
    import sys

    import numpy as np

    from vitmed import durable
    from vitmed.errors import InputError
    from vitmed.models.adapt import other_channels
    from vitmed.scans.recipe import Recipe, modality, unit_of, window_of
    from vitmed.weights import files
    from vitmed.weights.published import encoder

    if args.modality is None:
        raise InputError(f"--modality is missing: {source} does not say of what its scans will be")
    if args.channels is not None and args.channels < 1:
        raise InputError(f"--channels is {args.channels}; at least 1 was expected")
    kind, size = modality(args.modality), _numbers(args.size, "--size", int)
    beside = files.beside(source)
    found = encoder(arrays, str(source), beside, args.heads, size)
    whence = "by the" if "layer_norm_eps" in beside else "as usual for this layout, told by no"
    mean, std = _normalisation(found, args)
    said = [
        f"{found.layout}: {found.model.vit.depth} blocks of width {found.model.vit.dim}, {found.model.vit.heads} heads, "
        f"patches of {'x'.join(map(str, found.model.patch_size))}, positions {found.model.positions}",
        f"norms with epsilon {found.model.epsilon:g}, {whence} config.json beside it",
        f"images in 0..1 are normalised by mean {mean} and std {std}",
    ]
    params, channels = found.params, args.channels or found.channels
    low, high = window_of(kind)
    mean, std = (low + (high - low) * np.asarray(mean)).tolist(), ((high - low) * np.asarray(std)).tolist()
    if channels != found.channels:
        kernel = params["patches"]["kernel"].reshape(*found.model.patch_size, found.channels, -1)
        kernel, bias, mean, std = other_channels(kernel, params["patches"]["bias"], mean, std, channels)
        params = {**params, "patches": {"kernel": kernel.reshape(-1, kernel.shape[-1]), "bias": bias}}
        said.append(
            f"each of its {found.channels} channels is shown the mean of {channels}, normalisation included"
        )
    if found.left_out:
        said.append(f"left out: {', '.join(found.left_out[:3])}{', ...' if len(found.left_out) > 3 else ''}")
    print("; ".join(said), file=sys.stderr, flush=True)
    recipe = Recipe(
        kind, channels, found.size, None, unit_of(kind), (low, high), tuple(mean), tuple(std),
        found.model.patch_size, dataclasses.asdict(found.model),
    )  # fmt: skip
    about = {"file": source.name, "layout": found.layout, "left_out": list(found.left_out)}
    sheet = {"task": None, "classes": None, "content_hash": durable.sha256(source), "weights": about}
    told = {"layout": found.layout, "left_out": list(found.left_out)}
    return recipe, {"encoder": params}, {"objective": {"name": "published"}, "data": {}}, sheet, told


def _normalisation(found, args):
    """Mean and std of images in 0..1, a number a channel: what was asked for, or as published."""
    from vitmed.errors import InputError

    given = _numbers(args.mean, "--mean", float), _numbers(args.std, "--std", float)
    if (given[0] is None) != (given[1] is None):
        raise InputError("--mean and --std belong together; give both or neither")
    mean, std = given if given[0] is not None else found.normalisation or (None, None)
    if mean is None:
        raise InputError(
            f"weights of {found.layout} do not say how their images were normalised; give --mean and --std, e.g. "
            "0.485,0.456,0.406 and 0.229,0.224,0.225 (ImageNet's) or 0.5,0.5,0.5 and 0.5,0.5,0.5"
        )
    if len(mean) != found.channels or len(std) != found.channels or min(std) <= 0:
        raise InputError(f"mean {mean} and std {std} are not one a channel of {found.channels}, std positive")
    return tuple(mean), tuple(std)


def _write(out, recipe, params, config, sheet):
    """The run folder: as of a training that has ended before its first step."""
    from vitmed.config import tree
    from vitmed.runs import folder
    from vitmed.runs.checkpoint import CheckpointConfig, Checkpoints

    whole = tree(
        {**config, "model": recipe.model, "optim": {"ema": 0.0}, "data": {**config["data"], "path": ""}}
    )
    folder.create(out, whole, recipe, {"format": 1, **sheet})
    with Checkpoints(out, CheckpointConfig()) as checkpoints:
        checkpoints.save(0, {"params": params, "memory": {}})


def _keys(recipe) -> list[str]:
    """The flags of ``config.model`` that make the model of ``recipe``, where they differ from what is left out."""
    from vitmed.models.build import ModelConfig

    plain = ModelConfig(recipe.model["variant"], recipe.patch_size, shape=tuple(recipe.model["shape"]))
    keys = ("variant", "patch_size", *(k for k in recipe.model if k not in ("variant", "patch_size")))
    flags = []
    for key in keys:
        value = recipe.model[key]
        value = tuple(value) if isinstance(value, (list, tuple)) else value
        if key in ("variant", "patch_size", "shape") and value or value != getattr(plain, key):
            text = str(value).replace(" ", "")
            flags.append(f"--config.model.{key}={f'{chr(34)}{text}{chr(34)}' if '(' in text else text}")
    return flags


def _numbers(text, flag, kind):
    from vitmed.errors import InputError

    if text is None:
        return None
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{flag} is {text!r}; numbers with commas between them were expected") from None


def _refuse(args, names, why):
    from vitmed.errors import InputError

    for name in names:
        if getattr(args, name) is not None:
            raise InputError(f"--{name} {why}; leave it out")
