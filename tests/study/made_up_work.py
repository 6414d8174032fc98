"""Training and evaluation that take no time, for a study's processes to import by name."""

import json
import os
import time
from pathlib import Path

import numpy as np

from vitmed import durable
from vitmed.evaluate import predictions
from vitmed.evaluate.score import probabilities, score
from vitmed.study.study import Work

SKILL = {"pretrained": 2.5, "scratch": 0.8, "resnet": 1.2}
EXAMPLES = 60


def train(config, run: Path) -> dict:
    """Writes down that it was called. A file ``wait`` or ``fail`` beside the study makes it do that."""
    run.mkdir(parents=True, exist_ok=True)
    with open(run / "calls", "a") as calls:
        calls.write(f"train {os.getpid()} {sorted(os.sched_getaffinity(0))}\n")
    (run / "config.used").write_text(config.to_json_best_effort())
    (run / "dataset.json").write_text(
        json.dumps({"name": "made up", "content_hash": "ab" * 32, "simulated": True})
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
    """Scores that know the label as well as the arm's skill has it; the same examples in every cell."""
    with open(run / "calls", "a") as calls:
        calls.write(f"evaluate {split}\n")
    arm, budget, draw = run.name.split("-")
    label = (np.arange(EXAMPLES) % 2).astype(np.float64)[:, None]
    rng = np.random.Generator(np.random.Philox(key=[int(draw), sum(map(ord, arm + budget))]))
    signal = SKILL[arm] * (2 * label[:, 0] - 1) + rng.standard_normal(EXAMPLES)
    logits = np.stack([-signal, signal], axis=1) / 2
    patients = [f"p{i // 2}" for i in range(EXAMPLES)]
    known = np.ones_like(label)
    result = score("multiclass", ["no", "yes"], logits, label, known, patients, resamples=50)
    result |= {"run": str(run), "split": split, "opened": 1}
    folder = run / "evaluations" / split
    folder.mkdir(parents=True)
    made = predictions.Predictions(
        "multiclass",
        ["no", "yes"],
        [str(i) for i in range(EXAMPLES)],
        patients,
        None,
        probabilities("multiclass", logits),
        label,
        known,
    )
    predictions.write(folder / "predictions.csv", made)
    durable.write_json(folder / "metrics.json", result)
    return result


def label_count(data: str, split: str, labels, draw: int) -> int:
    return round(200 * labels)


def metric_names(data: str, split: str, order: tuple[str, ...]) -> list[str]:
    return ["auroc", "balanced_accuracy", "ece"]


WORK = Work(train, evaluate, label_count, metric_names)
