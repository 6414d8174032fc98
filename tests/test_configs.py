"""Every file in configs/ works: it is whole, and two real steps of it run, in 2D and in 3D.

Files are found, not listed: an experiment that is added is run here from its first day.
"""

import ast
import math
from pathlib import Path

import pytest

from vitmed import config as configs
from vitmed.errors import InputError
from vitmed.job.config import Config, check, resolve
from vitmed.runs import load as load_params
from vitmed.study.config import StudyConfig
from vitmed.study.plan import plan
from vitmed.train import train

PROJECT = Path(__file__).resolve().parents[1]
TRAINING = sorted((PROJECT / "configs").glob("*.py"))
STUDIES = sorted((PROJECT / "configs" / "study").glob("*.py"))
NAMES = [file.stem for file in TRAINING], [file.stem for file in STUDIES]


def scans_for(file: Path, dimensions: int, request) -> Path:
    """The small dataset that a config can learn from: with masks, where those are its task."""
    config = configs.load(f"{file}:tiny")
    learned = config if "objective" in config else next(iter(config.arms.values())).config
    masks = learned.objective.get("task") == "segmentation"
    names = {2: ("tiny_dataset", "marked_dataset"), 3: ("tiny_volumes", "marked_volumes")}
    return request.getfixturevalue(names[dimensions][masks])


def two_steps(spec: str, data: Path, dimensions: int) -> dict:
    """The config that ``spec`` names, on ``data``, for two steps of eight."""
    config = configs.load(spec, {"data.path": str(data), "train.steps": "2", "train.batch_size": "8"})
    set_patch(config, dimensions)
    return config


def set_patch(config, dimensions: int) -> None:
    """Patches of 4 an axis, for the models that have patches."""
    if config.model.get("patch_size"):
        with config.ignore_type():
            config.model.patch_size = (4,) * dimensions


def assert_trained(result: dict) -> None:
    assert result["step"] == 2 and result["resumed_from"] == 0
    assert math.isfinite(result["metrics"]["loss"])
    assert {"encoder"} < set(load_params(result["run"])), "the run cannot start another one"


def test_there_are_configs():
    """Otherwise the tests below pass by finding nothing."""
    assert {"pretrain_mae", "finetune_classify"} <= set(NAMES[0]) and NAMES[1]


@pytest.mark.parametrize("file", TRAINING, ids=NAMES[0])
def test_two_steps_in_2d(file, request, tmp_path):
    """Otherwise the command in the config's header ends in an error."""
    scans = scans_for(file, 2, request)
    assert_trained(train(two_steps(f"{file}:tiny", scans, 2), tmp_path / "run", quiet=True))


@pytest.mark.parametrize("way", ["probe", "attentive", "lora"])
def test_two_steps_of_each_way_of_fine_tuning(way, tiny_dataset, tmp_path):
    """From a run, as they are meant for: what config.finetune needs of the others is in the file."""
    configs_of = {
        name: str(PROJECT / "configs" / f"{name}.py") for name in ("pretrain_mae", "finetune_classify")
    }
    former = two_steps(f"{configs_of['pretrain_mae']}:tiny", tiny_dataset, 2)
    train(former, tmp_path / "former", quiet=True)
    config = two_steps(f"{configs_of['finetune_classify']}:{way}", tiny_dataset, 2)
    config.init_from = str(tmp_path / "former")
    assert_trained(train(config, tmp_path / "run", quiet=True))


@pytest.mark.slow
@pytest.mark.parametrize("file", TRAINING, ids=NAMES[0])
def test_two_steps_in_3d(file, request, tmp_path):
    """Otherwise something in the path to this objective knows only images."""
    scans = scans_for(file, 3, request)
    assert_trained(train(two_steps(f"{file}:tiny", scans, 3), tmp_path / "run", quiet=True))


@pytest.mark.slow
@pytest.mark.parametrize("file", STUDIES, ids=NAMES[1])
def test_two_steps_of_every_arm(file, request, tmp_path):
    """Otherwise a study of hours ends at the first arm whose config does not fit its data or pretraining."""
    config = configs.load(f"{file}:tiny")
    # Those of volumes turn and mirror them about axes that images do not have.
    dimensions = max(len(arm.config.model.get("patch_size", ())) for arm in config.arms.values())
    config.data.update(dict(path=str(scans_for(file, dimensions, request)), folds=0))
    with config.ignore_type(), config.unlocked():
        config.study.update(dict(budgets=(0.5,), draws=1, folds=1, compare=()))
    for arm in config.arms.values():
        with arm.ignore_type(), arm.unlocked():
            arm.steps = None
    planned = plan(config, tmp_path)
    for cell in planned.everything:
        with cell.config.ignore_type(), cell.config.unlocked():
            cell.config.train.steps, cell.config.train.batch_size = 2, 8
            set_patch(cell.config, dimensions)
        assert_trained(train(cell.config, cell.run, quiet=True))


@pytest.mark.parametrize("file", STUDIES, ids=NAMES[1])
@pytest.mark.parametrize("argument", [None, "tiny", "tuned"])
def test_every_study_lays_out(file, argument, tmp_path):
    """Otherwise a study ends before its first run, or a key that nothing reads stands in the config of an arm."""
    planned = plan(configs.load(f"{file}:{argument}" if argument else str(file)), tmp_path)
    for cell in planned.everything:
        for config in (cell.config, *(trial.config for trial in cell.trials)):
            check(config)


@pytest.mark.parametrize("file", TRAINING, ids=NAMES[0])
@pytest.mark.parametrize("argument", [None, "tiny", "b16,224", "l8,96x96x96"])
def test_every_argument_is_whole(file, argument):
    """Otherwise a key that nothing reads stands in a config, or a documented argument is refused."""
    config = check(configs.load(f"{file}:{argument}" if argument else str(file)))
    if argument and "," in argument:
        assert config.model.variant == argument[0]
        assert len(config.model.patch_size) == len(config.data.size)


@pytest.mark.parametrize(
    "spec,key,value,says",
    [
        ("pretrain_mae", "drop_path", 0.1, "drop_path is 0.1, but 'mae' trains without it"),
        ("pretrain_ijepa", "drop_path", 0.1, "drop_path is 0.1, but 'ijepa' trains without it"),
        ("finetune_classify", "drop_path", 0.1, "drop_path is 0.1, which variant 'resnet10' does not have"),
        ("finetune_classify", "pool", "grid", "pool is 'grid', which variant 'resnet10' does not have"),
        ("finetune_segment", "drop_path", 0.1, "drop_path is 0.1, which variant 'unet' does not have"),
        (
            "finetune_classify",
            "brightest_patches",
            8,
            "brightest_patches is 8, which variant 'resnet10' does",
        ),
        ("finetune_segment", "brightest_patches", 8, "brightest_patches is 8, but masks are made of all"),
        ("finetune_classify", "scan", True, "scan is True, which variant 'resnet10' does not have"),
        ("finetune_classify", "epsilon", 1e-5, "epsilon is 1e-05, which variant 'resnet10' does not have"),
        ("finetune_classify", "shape", (8, 1, 2, 8), "shape is .8, 1, 2, 8., which variant 'resnet10'"),
        ("finetune_segment", "decoder_dim", 64, "decoder_dim is 64, which variant 'unet' does not have"),
        ("finetune_segment", "decoder_depth", 2, "decoder_depth is 2, which variant 'unet' does not have"),
        ("finetune_segment", "decoder_heads", 8, "decoder_heads is 8, which variant 'unet' does not have"),
    ],
)
def test_a_key_that_nothing_would_read_is_refused(spec, key, value, says):
    """Otherwise an experiment is made of it that changes nothing."""
    argument = {"finetune_classify": ":resnet10", "finetune_segment": ":unet"}.get(spec, "")
    config = configs.load(f"{PROJECT / 'configs' / spec}.py{argument}")
    check(config)
    config.model[key] = value
    with pytest.raises(InputError, match=f"config.model.{says}"):
        check(config)


@pytest.mark.parametrize("spec", ["finetune_classify.py:resnet10", "finetune_segment.py:unet"])
def test_a_cnn_may_be_given_what_a_vit_has_at_its_default(spec):
    """Otherwise the resolved config of a run, which holds every key, cannot be trained again."""
    resolved = resolve(configs.load(f"{PROJECT / 'configs' / spec}"))
    assert "decoder_dim" in resolved.model and resolve(resolved) == resolved


@pytest.mark.parametrize("spec", ["finetune_classify.py:resnet10", "finetune_segment.py:unet"])
def test_a_cnn_has_no_layers_to_learn_more_slowly(spec):
    """Otherwise a decay is tuned that changes nothing: all that a CNN has is one layer."""
    config = configs.load(f"{PROJECT / 'configs' / spec}")
    config.optim.layer_decay = 0.75
    with pytest.raises(InputError, match="config.optim.layer_decay is 0.75, but variant '.*' has no blocks"):
        check(config)


@pytest.mark.parametrize("file", TRAINING, ids=NAMES[0])
def test_every_section_can_be_given_a_key(file):
    """Otherwise --config.KEY=VALUE is refused for a section that the file leaves at its defaults."""
    given = {
        "probe.examples": "7",
        "guard.folds": "0",
        "finetune.lora.rank": "8",
        "augment.brightness": "0.5",
    }
    config = check(configs.load(str(file), given, Config))
    assert (config.probe.examples, config.augment.brightness) == (7, 0.5)
    with pytest.raises(InputError, match="did you mean config.probe.every"):
        configs.load(str(file), {"prob.every": "1"}, Config)


@pytest.mark.parametrize("file", STUDIES, ids=NAMES[1])
def test_every_section_of_a_study_can_be_given_a_key(file):
    """Of its arms and pretrainings too, as of a training; an arm that the file does not have is none."""
    study = configs.load(str(file))
    before = [f"pretrains.{name}" for name in study.get("pretrains", {})]
    before += ["pretrain"] if study.get("pretrain") else []
    trained = [*before, *(f"arms.{name}.config" for name in study.arms)]
    assert before and len(trained) > len(before), "the case tests nothing"
    given = {f"{name}.{key}": "2" for name in trained for key in ("guard.folds", "probe.every")}
    given |= {f"arms.{name}.grid.optim.lr": "(1e-3,)" for name in study.arms} | {"tune.by": "val"}
    made = configs.flat(configs.load(str(file), given, StudyConfig))
    assert {key: made[key] for key in given} == {
        key: {"val": "val", "2": 2}.get(text, (1e-3,)) for key, text in given.items()
    }
    for nobody in ("arms.nobody.grid.optim.lr", "arms.nobody.config.probe.every", "pretrains.no.probe.every"):
        with pytest.raises(InputError, match=f"{nobody} is not a key"):
            configs.load(str(file), {nobody: "1"}, StudyConfig)


@pytest.mark.parametrize("file", [*TRAINING, *STUDIES], ids=[*NAMES[0], *NAMES[1]])
def test_its_header_has_the_command(file):
    """Otherwise nobody can say how the numbers that stand beside this config were made."""
    header = ast.get_docstring(ast.parse(file.read_text())) or ""
    assert f"--config {file.relative_to(PROJECT)}" in header


@pytest.mark.parametrize("file", TRAINING, ids=NAMES[0])
def test_the_written_config_is_the_same_config(file, tmp_path):
    """Otherwise a run's config.json, given to --config, is another experiment."""
    config = two_steps(f"{file}:tiny", tmp_path / "data", 2)
    written = tmp_path / "config.json"
    written.write_text(configs.to_json(config))
    assert check(configs.load(str(written))) == check(config)
