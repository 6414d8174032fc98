"""``vitmed plan`` as it is typed; what needs the TPU's compiler is in test_ahead.py."""

import json
from pathlib import Path

import jax
import pytest

from vitmed.cli.main import main
from vitmed.errors import MachineError
from vitmed.scale import ahead, hardware, plan

PROJECT = Path(__file__).resolve().parents[2]
MAE = str(PROJECT / "configs" / "pretrain_mae.py")
KEYS = {
    "topology", "chips", "fits", "bytes_per_chip", "flops_per_chip", "collective_bytes_per_chip", "cycles",
    "images_per_second", "mfu",
}  # fmt: skip


@pytest.fixture
def planned(capsys):
    def run(*words) -> dict:
        assert main(["plan", *map(str, words), "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


@pytest.fixture
def refused(capsys):
    def run(*words, names) -> None:
        assert main(["plan", *map(str, words)]) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("vitmed: ") and all(name in last for name in names), last

    return run


def test_a_gpu_s_roofline_is_marked_as_an_estimate(planned):
    result = planned("--config", f"{MAE}:s16,224", "--topology", "h200:8", "--price-per-chip-hour", 2)
    assert KEYS <= set(result) and result["estimate"] and "estimate" in result["method"]
    assert result["fits"] and result["chips"] == 8 and result["cycles"] is None
    assert 0 < result["mfu"] <= 1
    step = result["hours"] * 3600 / result["steps"]
    assert result["images_per_second"] == pytest.approx(1024 / step, rel=1e-3)
    assert result["cost"] == pytest.approx(result["hours"] * 16, abs=0.01)
    # ViT-S with the usual decoder: 4 bytes each of 47.6 M gradients... to the others and back, all over eight.
    assert result["collective_bytes_by_kind"].keys() == {"all-reduce"}


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ("finetune_segment.py:ti8,32x32x32", ("--config.objective.class_weights=root",)),
        ("finetune_segment.py:ti8,32x32x32", ("--config.objective.class_weights=(1.0,2.0,2.0)",)),
        ("semi_teacher_segment.py:ti8,32x32x32", ("--config.data.sampling=balanced",)),
        ("finetune_classify.py:ti8,32x32x32", ("--config.objective.class_weights=balanced",)),
        ("finetune_classify.py:ti16,64", ("--config.objective.task=regression",)),
        ("finetune_classify.py:ti16,64", ("--config.objective.task=multilabel",)),
        (
            "finetune_classify.py:ti16,64",
            ("--config.objective.task=ordinal", "--config.objective.order=('low','middle','high')"),
        ),
    ],
)
def test_what_learns_from_labels_or_masks_is_planned_without_them(planned, config, keys):
    """Otherwise it has no plan, though neither labels nor masks weigh much."""
    args = ("--topology", "h100:2", "--config.train.batch_size=4", *keys)
    result = planned("--config", PROJECT / "configs" / config, *args)
    assert result["fits"] and result["flops_per_chip"] > 0


def test_what_does_not_fit_is_no_fault_and_something_is_recommended(planned, monkeypatch):
    """By how much it does not fit, and what would."""
    bars, advance = [], plan.Bar.advance
    monkeypatch.setattr(plan.Bar, "advance", lambda bar, *one: (bars.append(bar), advance(bar, *one)))
    result = planned("--config", f"{MAE}:g14,224", "--topology", "a100:8", "--config.train.batch_size=65536")
    assert not result["fits"] and result["bytes_per_chip"] > result["memory_per_chip"]
    assert result["images_per_second"] is result["mfu"] is result["hours"] is None
    assert bars[-1].total >= bars[-1].done == 1 + len(result["tried"]) > 1, (
        "its progress counts what it tries"
    )
    best = result["recommended"]
    assert best["train.batch_size"] <= 65536 and any(one["fits"] for one in result["tried"])


def test_without_the_extra_one_sentence_names_it(refused, monkeypatch):
    monkeypatch.setattr(ahead.importlib.util, "find_spec", lambda name: None)
    refused("--config", f"{MAE}:s16,224", "--topology", "v5e:4x4", names=["vitmed[plan]"])


def test_a_compiler_that_is_in_use_is_said_to_be(monkeypatch):
    """Otherwise who plans two configs at once is told to update libtpu."""

    def taken(*_, **__):
        raise jax.errors.JaxRuntimeError(
            "ABORTED: Internal error when accessing libtpu multi-process lockfile."
        )

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", taken)
    with pytest.raises(MachineError, match="in use by another program"):
        ahead.devices(hardware.Topology.of("v5e:4x4"))


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--topology", "v9:4x4"], ["v9", "v5e:1x1, 2x2", "h100:N"]),
        (["--topology", "v5e:5x5"], ["v5e", "16x16"]),
        ([], ["--topology", "--fit"]),
        (["--fit", "--topology", "h100:8"], ["--topology", "--fit"]),
        (["--topology", "h100:3"], ["config.train.batch_size is 1024", "nearest is 1023"]),
        (["--topology", "h100:8", "--config.parallel.mesh=fsdp=8"], ["config.parallel.rules", "fsdp"]),
        (["--topology", "h100:8", "--config.train.epochs=3", "--config.train.steps=None"], ["--examples"]),
        (["--topology", "h100:8", "--config.data.size=None"], ["config.data.size", "224"]),
        (["--topology", "h100:8", "--config.parallel.engine=pmap"], ["config.parallel.engine", "jit"]),
        (["--fit", "--memory", "much"], ["--memory", "8GB"]),
        (["--topology", "h100:8", "--price-per-chip-hour", "-1"], ["--price-per-chip-hour"]),
    ],
)
def test_bad_input_is_one_sentence(refused, words, names):
    refused("--config", f"{MAE}:s16,224", *words, names=names)


def test_epochs_are_counted_in_the_examples_given(planned):
    result = planned(
        "--config", f"{MAE}:s16,224", "--topology", "h100:8", "--config.train.epochs=3", "--config.train.steps=None",
        "--examples", 10_240,
    )  # fmt: skip
    assert result["steps"] == 30


@pytest.mark.slow
def test_fit_takes_the_largest_that_time_and_memory_allow(monkeypatch):
    """A rate is given here, so that the choice is the same on every machine."""
    from vitmed import config as configs
    from vitmed.scale.fit import fit

    values = configs.load(f"{MAE}:b16,224", {"train.steps": "1000", "train.batch_size": "256"})
    much = fit(values, hours=10, memory=80 * 10**9, rate=100e12, quiet=True)
    assert much["choice"]["model.variant"] == "g" and not much["reduced"]
    less = fit(values, hours=10, memory=8 * 10**9, rate=20e12, quiet=True)
    assert less["bytes_per_chip"] <= 8e9 and less["choice_hours"] <= 10
    assert less["choice"]["model.variant"] in "slbh" and less["choice"]["train.steps"] == 1000
    none = fit(values, hours=0.001, memory=8 * 10**9, rate=1e12, quiet=True)
    assert none["reduced"] and none["choice"]["model.variant"] == "ti"
    assert none["choice"]["train.steps"] < 1000 and none["choice_hours"] <= 0.0011


def test_fit_keeps_to_the_model_that_is_started_from_and_changes_it_by_low_rank_where_all_of_it_is_too_large():
    """Else it recommends a model that the run's weights do not fit, or none where LoRA would do."""
    from vitmed import config as configs
    from vitmed.scale.fit import fit

    keys = {
        "init_from": "runs/mae",
        "model.variant": "l",
        "model.patch_size": "16,16",
        "data.size": "224,224",
        "train.batch_size": "8",
    }
    values = configs.load("configs/finetune_classify.py", keys)
    much = fit(values, hours=1000, memory=80 * 10**9, rate=1e12, quiet=True)
    assert much["choice"]["model.variant"] == "l" and much["choice"]["finetune.method"] == "full"
    less = fit(values, hours=1000, memory=4 * 10**9, rate=1e12, quiet=True)
    assert {one["settings"]["model.variant"] for one in less["considered"]} == {"l"}
    assert less["choice"]["finetune.method"] == "lora" and less["bytes_per_chip"] < 4e9
    assert not less["considered"][0]["fits"]
    whole, hours = much["choice_hours"], 0.9 * much["choice_hours"]
    sooner = fit(values, hours=hours, memory=80 * 10**9, rate=1e12, quiet=True)
    assert sooner["choice"]["finetune.method"] == "lora" and sooner["choice_hours"] < hours < whole
    assert not sooner["reduced"]


@pytest.mark.slow
def test_fit_measures_a_real_step(planned):
    result = planned(
        "--config", f"{MAE}:tiny", "--config.data.size=16,16", "--fit", "--memory", "8GB", "--hours", "100"
    )
    assert result["rate"]["measured"] and result["rate"]["flops"] > 1e6
    assert result["choice"]["model.variant"] and result["choice_hours"] > 0
