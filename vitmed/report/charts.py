"""Geometry of the report's figures: numbers in, positions out, which ``templates/charts.html`` draws as SVG.

Colours follow Okabe and Ito, told apart by every kind of colour vision; each series has its own marker too, and where
there are more series than colours, those of one colour have different markers.
"""

import dataclasses
import math
from collections.abc import Sequence

COLOURS = ("#0072b2", "#d55e00", "#00896a", "#a3507f", "#8a6d00", "#4b5a68")
MARKERS = ("circle", "square", "triangle", "diamond")
_NAME = 22  # letters that fit beside a forest


@dataclasses.dataclass(frozen=True)
class Frame:
    """The plot area inside an SVG of ``width`` x ``height``, in its user units."""

    width: float = 540
    height: float = 310
    left: float = 52
    right: float = 16
    top: float = 12
    bottom: float = 48

    @property
    def x1(self) -> float:
        return self.width - self.right

    @property
    def y1(self) -> float:
        return self.height - self.bottom


def look(series: int) -> dict[str, str]:
    """``colour`` and ``marker`` of a series by its number: no two of the first 24 have both in common."""
    turn, colour = divmod(series, len(COLOURS))
    return {"colour": COLOURS[colour], "marker": MARKERS[(series + turn) % len(MARKERS)]}


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers (1, 2 or 5 times a power of ten) that cover [low, high]."""
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1.0), low + 0.5 * (abs(low) or 1.0)
    raw = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def label(value: float, step: float) -> str:
    """A tick's text with just the decimals its step needs."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step < 1 else 0
    return f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def curves(
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]], x_title: str, y_title: str
) -> dict | None:
    """Lines over a numeric x, such as losses over steps. None where there is nothing to draw.

    Args:
        series: (name, x, y) each; values that are not finite are left out, never joined over.
    """
    frame = Frame()
    points = [(n, [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)]) for n, xs, ys in series]
    points = [(n, p) for n, p in points if p]
    if not points:
        return None
    xs, ys = [x for _, p in points for x, _ in p], [y for _, p in points for _, y in p]
    # The first steps of a training are far above all that follows; the axis is for what follows.
    top = max(max(y for _, y in p[max(len(p) // 50, 0) :]) for _, p in points)
    y_ticks, x_ticks = ticks(min(ys), max(top, min(ys))), ticks(0, max(xs))
    to_x = _scale(0, max(xs) or 1, frame.left, frame.x1)
    to_y = _scale(y_ticks[0], y_ticks[-1], frame.y1, frame.top)
    x_ticks = [t for t in x_ticks if t <= max(xs) * 1.001 and t == int(t)]  # there is no half step
    return _axes(frame, x_title, y_title, y_ticks, to_y) | {
        "kind": "curves",
        "x_ticks": [{"at": to_x(t), "text": label(t, max(x_ticks[-1] / 5, 1))} for t in x_ticks],
        "series": [
            {
                "name": name,
                "colour": look(i)["colour"],
                "marker": "",
                "line": _path([(to_x(x), to_y(y)) for x, y in _thin(p)]),
                "last": f"{p[-1][1]:.4g}",
                "end": {"x": to_x(p[-1][0]), "y": to_y(p[-1][1])},
            }
            for i, (name, p) in enumerate(points)
        ],
    }


def efficiency(columns: Sequence[str], series: Sequence[dict], y_title: str) -> dict:
    """A metric with its interval for each arm at each label budget; budgets stand at even distances.

    Args:
        columns: what is written under each budget, lines parted by a newline.
        series: ``name`` and ``points``, one (value, low, high) or None a column, each.
    """
    frame = Frame(bottom=66)
    every = [v for s in series for p in s["points"] if p for v in p]
    y_ticks = ticks(min(every), max(every))
    to_y = _scale(y_ticks[0], y_ticks[-1], frame.y1, frame.top)
    width = (frame.x1 - frame.left) / len(columns)
    drawn = []
    for i, one in enumerate(series):
        shift = (i - (len(series) - 1) / 2) * min(
            14.0, width / (len(series) + 1)
        )  # so that intervals lie side by side
        marks = [
            {
                "x": frame.left + (c + 0.5) * width + shift,
                "y": to_y(p[0]),
                "low": to_y(p[1]),
                "high": to_y(p[2]),
                "text": f"{one['name']}: {p[0]:.3f} [{p[1]:.3f}, {p[2]:.3f}]",
            }
            for c, p in enumerate(one["points"])
            if p
        ]
        drawn.append(
            {
                "name": one["name"],
                **look(i),
                "last": "",
                "marks": marks,
                "line": _path([(m["x"], m["y"]) for m in marks]),
            }
        )
    return _axes(frame, "labels used for training", y_title, y_ticks, to_y) | {
        "kind": "efficiency",
        "x_ticks": [
            {"at": frame.left + (c + 0.5) * width, "lines": text.split("\n")}
            for c, text in enumerate(columns)
        ],
        "series": drawn,
    }


def differences(rows: Sequence[dict], x_title: str, margin: float | None = None) -> dict:
    """Differences as a forest: one row a comparison, its interval, and the line of no difference.

    Args:
        rows: ``group``, ``name``, ``value``, ``low``, ``high``, ``series`` (number of the arm, as ``look`` takes it) each, and
            ``real``: whether it is shown; left out, whether the interval excludes 0.
        margin: where the line of non-inferiority lies; None draws none.
    """
    line_height, top = 26.0, 30.0
    groups = list(dict.fromkeys(row["group"] for row in rows))
    # Long names, of two arms, stand on a line of their own above the interval.
    tall = any(len(row["name"]) > _NAME for row in rows)
    step = line_height + 16 * tall
    height = top + line_height * len(groups) + step * len(rows) + 46
    frame = Frame(left=20 if tall else 150, right=20, top=top, height=height, bottom=46)
    ends = [0.0, *([margin] if margin is not None else [])]
    x_ticks = ticks(min(*ends, *(r["low"] for r in rows)), max(*ends, *(r["high"] for r in rows)), 4)
    to_x = _scale(x_ticks[0], x_ticks[-1], frame.left, frame.x1)
    drawn, y = [], top
    for group in groups:
        drawn.append({"heading": group, "y": y + line_height / 2})
        y += line_height
        for row in (r for r in rows if r["group"] == group):
            drawn.append(
                {
                    "name": row["name"],
                    "name_y": y + (12 if tall else line_height / 2),
                    "y": y + step - line_height / 2,
                    "x": to_x(row["value"]),
                    "low": to_x(row["low"]),
                    "high": to_x(row["high"]),
                    **look(row["series"]),
                    "real": row.get("real", row["low"] > 0 or row["high"] < 0),
                    "text": f"{row['name']}: {row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]",
                }
            )
            y += step
    return {
        "kind": "differences",
        "frame": frame,
        "rows": drawn,
        "zero": to_x(0.0),
        "margin": None if margin is None else to_x(margin),
        "x_title": x_title,
        "x_ticks": [
            {"at": to_x(t), "text": ("+" if t > 0 else "") + label(t, x_ticks[1] - x_ticks[0])}
            for t in x_ticks
        ],
    }


def histogram(edges: Sequence[float], counts: Sequence[float], x_title: str) -> dict | None:
    """Bars of an intensity histogram as one outline. None for an empty one."""
    if not counts or max(counts) <= 0:
        return None
    frame = Frame(width=360, height=120, left=8, right=8, top=6, bottom=34)
    to_x = _scale(edges[0], edges[-1], frame.left, frame.x1)
    # Square roots, since background outnumbers tissue a hundredfold and would flatten it.
    to_y = _scale(0.0, math.sqrt(max(counts)), frame.y1, frame.top)
    outline = [(to_x(edges[0]), frame.y1)]
    for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
        outline += [(to_x(left), to_y(math.sqrt(count))), (to_x(right), to_y(math.sqrt(count)))]
    outline.append((to_x(edges[-1]), frame.y1))
    x_ticks = [t for t in ticks(edges[0], edges[-1], 5) if edges[0] <= t <= edges[-1]]
    step = x_ticks[1] - x_ticks[0] if len(x_ticks) > 1 else 1.0
    return {
        "kind": "histogram",
        "frame": frame,
        "area": _path(outline) + " Z",
        "x_title": x_title,
        "x_ticks": [{"at": to_x(t), "text": label(t, step)} for t in x_ticks],
    }


def _axes(frame: Frame, x_title: str, y_title: str, y_ticks: list[float], to_y) -> dict:
    step = y_ticks[1] - y_ticks[0]
    return {
        "frame": frame,
        "x_title": x_title,
        "y_title": y_title,
        "y_ticks": [{"at": to_y(t), "text": label(t, step)} for t in y_ticks],
    }


def _scale(low: float, high: float, start: float, end: float):
    return lambda v: round(start + (min(max(v, low), high) - low) / ((high - low) or 1.0) * (end - start), 1)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x:g} {y:g}" for x, y in points)


def _thin(points: list[tuple[float, float]], most: int = 400) -> list[tuple[float, float]]:
    """Every n-th point and the last: a page does not need ten thousand."""
    step = max(len(points) // most, 1)
    return points[::step] + ([points[-1]] if (len(points) - 1) % step else [])
