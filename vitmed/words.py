"""How what is said to people puts numbers in words: reports, tables, notes and messages."""

import math
from collections.abc import Sequence

METRICS = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "macro_f1": "macro F1",
    "sensitivity_at_90_specificity": "sensitivity at 90% specificity",
    "sensitivity_at_validation_90_specificity": "sensitivity at validation's 90% specificity",
    "specificity_at_validation_90_specificity": "specificity at validation's 90% specificity",
    "ece": "expected calibration error",
    "mae": "mean absolute error",
    "rank_mae": "mean absolute error in ranks",
    "quadratic_kappa": "quadratic weighted kappa",
    "rmse": "root mean squared error",
    "r2": "R\N{SUPERSCRIPT TWO}",
    "pearson": "Pearson's r",
    "kappa": "Cohen's kappa",
    "dice": "Dice",
    "nsd": "NSD",
    "hd95": "HD95",
}
MODALITIES = {
    "xray": "X-ray",
    "ct": "CT",
    "mr": "MRI",
    "ultrasound": "ultrasound",
    "unknown": "of unknown modality",
}
SIMULATED = "Simulated scans: this shows that the software works, not that pretraining helps yours."


def metric(name: str) -> str:
    """A metric's name for people; unknown ones, such as ``auroc/effusion``, keep their own with spaces."""
    head, slash, tail = name.partition("/")
    return METRICS.get(head, head.replace("_", " ")) + (f", {tail}" if slash else "")


def capital(text: str) -> str:
    """The first letter made large, the others left as they are."""
    return text[:1].upper() + text[1:]


def number(value: float | None, decimals: int = 3, sign: bool = False) -> str:
    """``-0.0312`` as "−0.031"; nothing known as an en dash."""
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    text = f"{value:{'+' if sign else ''}.{decimals}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def interval(low: float | None, high: float | None, sign: bool = False, digits: int = 3) -> str:
    """``[0.031, 0.090]``, which no line break parts."""
    return f"[{number(low, digits, sign)},\N{NO-BREAK SPACE}{number(high, digits, sign)}]"


def count(n: int | None) -> str:
    """``4708`` as "4,708"."""
    return "\N{EN DASH}" if n is None else f"{n:,}"


def plural(n: int, one: str, many: str | None = None) -> str:
    """``3 scans``, ``1 scan``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def between(counts: Sequence[int], one: str) -> str:
    """``3 draws``, or ``3 to 5 draws`` where they are not equally many everywhere."""
    few, many = min(counts), max(counts)
    return plural(many, one) if few == many else f"{few:,} to {plural(many, one)}"


def draws(counts: Sequence[int]) -> str:
    """How often label budgets were drawn."""
    return between(counts, "draw")


def copies(where: str, n: int) -> str:
    """How many copies a datasheet counts ``where``: "3 between train and test", or "3 inside train"."""
    first, between, second = where.partition("/")
    return f"{count(n)} between {first} and {second}" if between else f"{count(n)} inside {first}"


def split(name: str, of: str = "") -> str:
    """A split, and of another dataset than the run's own also of which: ``test split of other_hospital``."""
    return f"{name} split of {of}" if of else f"{name} split"


def times(n: int) -> str:
    """``1`` as "once"."""
    return {1: "once", 2: "twice"}.get(n, f"{n:,} times")


def size(values: Sequence[float] | None, unit: str = "") -> str:
    """``64 × 64``, or "varying"."""
    if values is None:
        return "varying"
    return " \N{MULTIPLICATION SIGN} ".join(f"{v:g}" for v in values) + (f" {unit}" if unit else "")


def budget(value: int | float) -> str:
    """A label budget: ``0.01`` as "1% of the labels", ``50`` as "50 labels"."""
    if isinstance(value, int):
        return plural(value, "label")
    return "all labels" if value >= 1 else f"{100 * value:g}% of the labels"


def share(value: int | float) -> str:
    """A label budget for the head of a row: "1%", "all", "50"."""
    return f"{value:,}" if isinstance(value, int) else "All" if value >= 1 else f"{100 * value:g}%"


def listed(parts: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def span(histogram: dict, whole: bool = False) -> str:
    """The range of a histogram of the datasheet: ``31..43``, ``about 120..512`` where its bins tell no more, or ``1``."""
    edges, counts = histogram["edges"], histogram["counts"]
    held = [k for k, n in enumerate(counts) if n]
    low, high = edges[held[0]], edges[held[-1] + 1]
    if whole:
        width = edges[1] - edges[0]
        low, high = low + 0.5, high - 0.5
        about = "about " if width > 1 else ""
        return f"{low:.0f}" if low == high else f"{about}{low:.0f}..{high:.0f}"
    return f"{(low + high) / 2:.3g}" if len(counts) == 1 else f"{low:.3g}..{high:.3g}"
