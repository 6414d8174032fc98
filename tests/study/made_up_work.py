"""Training and evaluation that take no time, for a study's processes to import by name."""

import json
import os
import time
from pathlib import Path

import numpy as np

from vitmed import durable
from vitmed.evaluate import predictions
from vitmed.evaluate.score import probabilities, score
from vitmed.study import table
from vitmed.study.study import Work, do
from vitmed.study.tune import LeftOut

SKILL = {"pretrained": 2.5, "scratch": 0.8, "resnet": 1.2}
EXAMPLES = 60
CLASSES = ["no", "yes"]


def content(path: str) -> str:
    """The content hash of a dataset; a file ``content`` beside it has another."""
    sign = Path(path).parent / "content"
    return sign.read_text() if sign.exists() else "ab" * 32


def train(config, run: Path) -> dict:
    """Writes down that it was called. A file ``wait`` or ``fail`` beside the study makes it do that."""
    run.mkdir(parents=True, exist_ok=True)
    with open(run / "calls", "a") as calls:
        calls.write(f"train {os.getpid()} {sorted(os.sched_getaffinity(0))}\n")
    (run / "config.used").write_text(config.to_json_best_effort())
    (run / "dataset.json").write_text(
        json.dumps({"name": "made up", "content_hash": content(config.data.path), "simulated": True})
    )
    signs = Path(config.data.path).parent
    if (signs / "fail").exists() and (signs / "fail").read_text() == run.name:
        raise ValueError("a made-up fault")
    if (signs / "slow").exists() and run.name == "pretrain":
        time.sleep(3)
    elif (signs / "slow").exists() and config.init_from:
        assert (Path(config.init_from) / "metrics.csv").exists(), (
            f"{run.name} began before its pretraining ended"
        )
    if (signs / "wait").exists():
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            (run / "saved").write_text("state")
            raise
    (run / "metrics.csv").write_text("step,name,value\n10,loss,0.5\n")
    return {"run": str(run), "step": 10, "metrics": {"loss": 0.5}}


def evaluate(run: Path, split: str, checkpoint: str) -> dict:
    """Scores that know the label as well as the arm's skill has it; the same examples in every cell of a fold.

    A rate of 0.1 makes any arm worse. On validation scratch is better than the ResNet, on test it is not.
    """
    with open(run / "calls", "a") as calls:
        calls.write(f"evaluate {split}\n")
    config = json.loads((run / "config.used").read_text())
    name = run.name if "-" in run.name else run.parent.name
    arm, budget, draw, *fold = name.split("-")
    fold = int(fold[0].removeprefix("fold")) if fold else 0
    label = (np.arange(EXAMPLES) % 2).astype(np.float64)[:, None]
    rng = np.random.Generator(np.random.Philox(key=[int(draw) + 100 * fold, sum(map(ord, arm + budget))]))
    signal = _skill(arm, split, config) * (2 * label[:, 0] - 1) + rng.standard_normal(EXAMPLES)
    logits = np.stack([-signal, signal], axis=1) / 2
    patients = [f"fold {fold} p{i // 2}" for i in range(EXAMPLES)]
    known = np.ones_like(label)
    val = (logits, label, known)
    result = score("multiclass", CLASSES, logits, label, known, patients, val, resamples=50)
    result |= {"run": str(run), "split": split, "opened": 1}
    folder = run / "evaluations" / split
    folder.mkdir(parents=True)
    made = predictions.Predictions(
        "multiclass",
        CLASSES,
        [f"{fold}/{i}" for i in range(EXAMPLES)],
        patients,
        None,
        probabilities("multiclass", logits),
        label,
        known,
    )
    predictions.write(folder / "predictions.csv", made)
    durable.write_json(folder / "metrics.json", result)
    return result


def left_out(run: Path, checkpoint: str) -> LeftOut:
    """Twelve scans of the label budget; their best threshold is 0.25."""
    config = json.loads((run / "config.used").read_text())
    part = config["data"]["fold"][0]
    rng = np.random.Generator(np.random.Philox(key=[part, 7]))
    label = (np.arange(12) % 2).astype(np.float64)[:, None]
    signal = _skill(run.parent.name.split("-")[0], "left out", config) * (2 * label[:, 0] - 1)
    yes = 0.25 + 0.02 * (signal + 0.5 * rng.standard_normal(12))
    return LeftOut("multiclass", CLASSES, np.stack([1 - yes, yes], axis=1), label, np.ones_like(label))


def _skill(arm: str, split: str, config: dict) -> float:
    skill = 2.0 if (arm, split) == ("scratch", "val") else SKILL[arm]
    return skill * (0.1 if config.get("optim", {}).get("lr") == 0.1 else 1.0)


def label_count(data: str, split: str, labels, draw: int, parts=0, masks=False, apart=()) -> int:
    return round(200 * labels)


def metric_names(data: str, split: str, order: tuple[str, ...], masks: bool) -> list[str]:
    return ["auroc", "balanced_accuracy", "ece"]


def protocol(planned, quiet: bool = False) -> dict:
    """As if there were 40 labels to validate on in every fold that is run."""
    contents = {path: content(path) for cell in planned.everything for path in cell.datasets}
    return {
        "validation": 40 * len({cell.fold for cell in planned.cells}),
        "probed": {},
        "contents": contents,
        "notes": [],
    }


def check(config) -> None:
    """Made-up configs are of no training, which would refuse them."""


def rehearse(pretrains, cells) -> None:
    """There are neither scans nor models to hold against one another."""


WORK = Work(train, evaluate, label_count, metric_names, left_out, protocol, check, rehearse)


def run(planned) -> dict:
    """The whole study in this process, and its table."""
    for cell in planned.everything:
        if cell.arm:
            do(cell, planned.config.study.metrics[0], "last", WORK)
        else:
            train(cell.config, cell.run)
    counts = {(c.budget, c.draw, c.fold): label_count("", "", c.budget, c.draw) for c in planned.cells}
    return table.write(planned, counts, protocol(planned), quiet=True)
