"""Which way a metric is better, told by its name, for whoever picks the best checkpoint, trial or run."""

LOWER_IS_BETTER = (
    *("error", "mae", "mse", "rmse", "ece", "brier", "hd95"),
    # Losses, and what objectives call the terms of theirs.
    *("loss", "entropy", "supervised", "masked", "pseudo", "dino", "ibot", "koleo"),
)


def lower_is_better(metric: str) -> bool:
    """Whether smaller is better in the metric of this name: ``"val/loss"`` and ``"hd95/liver"`` yes, ``"val/auroc"`` no.

    ``val/`` before a name says where it was measured, and what follows another slash of which structure or finding: neither
    is looked at, so that a finding called loss turns nothing round.
    """
    return any(word in LOWER_IS_BETTER for word in metric.removeprefix("val/").partition("/")[0].split("_"))
