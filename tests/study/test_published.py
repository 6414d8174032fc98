"""A published encoder as a baseline: where its weights are on disk, and where they are not."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from vitmed import config as configs
from vitmed.cli.main import main
from vitmed.errors import InputError
from vitmed.models.transformer import unrolled
from vitmed.runs import load
from vitmed.study import notes
from vitmed.study.plan import plan
from vitmed.study.rehearsal import rehearse
from vitmed.study.study import train_run

sys.path.insert(0, str(Path(__file__).parents[1] / "weights"))  # numpy_published, by name
import numpy_published  # noqa: E402

STUDIES = ["configs/study/label_efficiency.py:tiny", "configs/study/objectives.py:tiny"]
WAYS = ("frozen", "finetuned")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A DINOv2 of facebookresearch's names, of pictures in colour and patches of 4 x 2, as `vitmed convert` takes it in."""
    folder = tmp_path_factory.mktemp("published")
    weights = numpy_published.random_weights(
        np.random.default_rng(0), patch=(4, 2), cells=(4, 8), registers="register_tokens", scale=True
    )
    np.savez(folder / "dinov2.npz", **weights, mask_token=np.zeros((1, 16), np.float32))
    words = [folder / "dinov2.npz", "--out", folder / "run", "--modality", "xray", "--heads", 2]
    assert main(["convert", *map(str, words), "--size", "16,16"]) == 0
    return folder / "run"


def asked(spec, data, published=""):
    config = configs.load(spec, {"data.path": str(data)})
    config.study.update(dict(budgets=(1.0,), draws=(1,), compare=(), published=str(published)))
    for arm in config.arms.values():
        arm.steps = (2,)
    return config


@pytest.mark.parametrize("spec", STUDIES)
def test_without_one_its_arms_are_left_out_and_it_is_said(spec, tiny_dataset, tmp_path):
    planned = plan(asked(spec, tiny_dataset), tmp_path / "study")
    assert {*planned.left_out} == {*WAYS} and not {*WAYS} & {cell.arm for cell in planned.cells}
    assert planned.config.study.baselines == ("scratch", "resnet")
    (said,) = notes._published(planned)
    assert said == (
        "No published encoder took part (config.study.published): the baselines are ViT from scratch and ResNet."
    )


@pytest.mark.parametrize("spec", STUDIES)
def test_with_one_it_is_a_baseline_of_its_own_architecture(spec, tiny_dataset, tmp_path, run):
    planned = plan(asked(spec, tiny_dataset, run), tmp_path / "study")
    assert planned.left_out == () and planned.config.study.baselines == ("scratch", "resnet", *WAYS)
    for way in WAYS:
        cell = planned.cell(way, 1.0, 0)
        model = cell.config.model
        assert (model.variant, tuple(model.shape)[:2], model.registers) == ("custom", (16, 2), 2)
        assert tuple(model.patch_size) == (4, 4) and cell.config.init_from == str(run) and not cell.start
        assert "val" in cell.splits, "the best of the baselines is chosen without it"
    assert planned.cell("frozen", 1.0, 0).config.finetune.method == "probe"


def test_its_arms_are_rehearsed(tiny_dataset, tmp_path, run):
    """Otherwise such a study is refused at its start, or its arms are held against nothing."""
    config = asked(STUDIES[0], tiny_dataset, run)
    planned = plan(config, tmp_path / "study")
    rehearse(planned.pretrains, planned.cells)
    config.arms.frozen.config.init_adapt = "patch"
    with pytest.raises(
        InputError, match="frozen-1.0-0: config.init_from .* does not fit .*init_adapt=channels"
    ):
        rehearse((), plan(config, tmp_path / "study").cells)


def test_a_wrong_one_is_refused(tiny_dataset, tmp_path):
    with pytest.raises(InputError, match="gone does not exist"):
        plan(asked(STUDIES[0], tiny_dataset, tmp_path / "gone"), tmp_path / "study")
    config = asked(STUDIES[0], tiny_dataset, tmp_path)
    config.study.arms = ("pretrained", "scratch", "resnet")
    config.study.baselines = ("scratch", "resnet")
    del config.arms["frozen"], config.arms["finetuned"]
    with pytest.raises(InputError, match="but no arm starts from it"):
        plan(config, tmp_path / "study")


@pytest.mark.parametrize(
    "key,value,says",
    [
        ("arms", ("frozen",), "config.study.arms asks for frozen"),
        ("baselines", ("frozen", "finetuned"), "config.study.baselines asks for frozen, finetuned"),
        ("compare", (("pretrained", "frozen"),), "config.study.compare asks for frozen"),
    ],
)
def test_what_names_them_alone_asks_for_one(tiny_dataset, tmp_path, key, value, says):
    """Otherwise all arms are run instead, or a study has nothing to compare with, without a word."""
    config = asked(STUDIES[0], tiny_dataset)
    with config.ignore_type(), config.unlocked():
        config.study[key] = value
    with pytest.raises(InputError, match=f"{says}.*set config.study.published"):
        plan(config, tmp_path / "study")
    config = asked(STUDIES[0], tiny_dataset)
    with config.ignore_type(), config.unlocked():
        config.pretrains = {"published": config.pretrain.to_dict()}
    with pytest.raises(InputError, match="config.pretrains.published: .* another name"):
        plan(config, tmp_path / "study")


def test_what_is_not_the_encoders_is_the_arms_own(tiny_dataset, tmp_path, run):
    """Otherwise a decoder of masks is of another width than those beside it, and 2D weights cannot be inflated."""
    config = asked(STUDIES[0], tiny_dataset, run)
    with config.ignore_type(), config.unlocked():
        config.arms.frozen.config.model.update(dict(width=4, learned_slices=True, patch_size=(2, 4, 4)))
        config.arms.frozen.config.init_adapt = "inflate"
    model = plan(config, tmp_path / "study").cell("frozen", 1.0, 0).config.model
    assert (model.width, model.learned_slices, tuple(model.patch_size)) == (4, True, (2, 4, 4))
    assert tuple(model.shape)[:2] == (16, 2)


@pytest.mark.slow
def test_both_ways_train(tiny_dataset, tmp_path, run):
    """The encoder that is frozen stays what was published, the other one learns."""
    planned = plan(asked(STUDIES[0], tiny_dataset, run), tmp_path / "study")
    published, moved = unrolled(load(run)["encoder"]), {}
    for way in WAYS:
        cell = planned.cell(way, 1.0, 0)
        assert np.isfinite(train_run(cell.config, cell.run)["metrics"]["loss"])
        learned = unrolled(load(cell.run)["encoder"])["transformer"]
        moved[way] = not jax.tree.all(jax.tree.map(np.array_equal, learned, published["transformer"]))
    assert moved == {"frozen": False, "finetuned": True}
