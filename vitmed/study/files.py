"""The study's table as CSV for programs and as Markdown for people."""

import csv
import io
from typing import Any

from vitmed import words


def flat_rows(table: dict[str, Any]) -> list[dict[str, Any]]:
    """One dict a (budget, arm): each metric with its interval, and its difference from the reference with its own.

    Columns: ``budget``, ``labels``, ``labels_validation`` (those that count beside), ``arm``, ``draws``, ``folds``,
    ``tried`` (settings), ``against`` (the reference of this row), ``examples``, ``patients`` (of its folds), ``opened``, and for each
    metric M: ``M``, ``M_low``, ``M_high``, ``M_difference`` (reference minus arm, or arm minus the best baseline),
    ``M_difference_low``, ``M_difference_high``.
    """
    compared = main(table)
    rows = []
    for row in table["rows"]:
        cells = [c for c in table["cells"] if (c["arm"], c["budget"]) == (row["arm"], row["budget"])]
        lead = compared.get((row["budget"], row["arm"], table["metrics"][0]), {})
        flat = {
            "budget": row["budget"],
            "labels": row["labels"],
            "labels_validation": row["labels_beside"],
            "arm": row["arm"],
            "draws": row["draws"],
            "folds": row["folds"],
            "tried": row["tried"],
            "against": lead.get("reference"),
            "examples": row["examples"],
            "patients": row["patients"],
            "opened": max(c["opened"] for c in cells),
        }
        for metric in table["metrics"]:
            value = row["metrics"][metric]
            lead = compared.get((row["budget"], row["arm"], metric), {})
            flat |= {metric: value["value"], f"{metric}_low": value["low"], f"{metric}_high": value["high"]}
            flat |= {
                f"{metric}_difference": lead.get("difference"),
                f"{metric}_difference_low": lead.get("low"),
                f"{metric}_difference_high": lead.get("high"),
            }
        rows.append(flat)
    return rows


def main(table: dict[str, Any]) -> dict[tuple, dict[str, Any]]:
    """The comparison that each row of the table shows, by (budget, arm, metric)."""
    return {(c["budget"], c["arm"], c["metric"]): c for c in table["comparisons"] if c["main"]}


def cell_rows(table: dict[str, Any]) -> list[dict[str, Any]]:
    """One dict a cell: its run folder, arm, budget, draw, fold, what a guard chose, labels, and each metric on its own."""
    return [{k: v for k, v in cell.items() if k != "metrics"} | cell["metrics"] for cell in table["cells"]]


_COMPARED = (
    *("first", "first_budget", "second", "second_budget", "metric", "difference", "low", "high", "verdict"),
    *("margin", "chance", "chance_holm", "holds", "sentence"),
)


def comparison_rows(table: dict[str, Any]) -> list[dict[str, Any]]:
    """One dict a comparison: first minus second, its interval, p-values (``chance``), verdict and sentence."""
    rows = [{key: c[key] for key in _COMPARED} for c in table["comparisons"]]
    return rows or [dict.fromkeys(_COMPARED)]


def csv_text(rows: list[dict[str, Any]]) -> str:
    """The rows with a header; what is not known is empty, numbers keep all their digits."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def markdown(table: dict[str, Any]) -> str:
    """Comparisons in words, then the table, then what to know about it."""
    metrics, compared = table["metrics"], main(table)
    lines = [f"# {table['study']}", ""]
    lines += [f"- {c['sentence']}" for c in table["comparisons"] if c["metric"] == metrics[0]]
    names = [words.metric(m) for m in metrics]
    head = ["labels", "scans", "model", *names, f"{table['minus']}, {names[0]}"]
    lines += ["", _line(head), _line(["---:", "---:", "---", *["---:"] * (len(metrics) + 1)])]
    for row in table["rows"]:
        lead = compared.get((row["budget"], row["arm"], metrics[0]))
        beside = f" + {words.count(row['labels_beside'])}" if row["labels_beside"] else ""
        lines.append(
            _line(
                [
                    words.share(row["budget"]),
                    words.count(row["labels"]) + beside,
                    row["label"],
                    *(_with_interval(row["metrics"][m]["value"], row["metrics"][m]) for m in metrics),
                    _with_interval(lead["difference"], lead, sign=True) if lead else row["standing"],
                ]
            )
        )
    lines += [
        "",
        *(f"- {note}" for note in table["notes"]),
        "",
        f"Dataset {table['dataset']['content_hash']}, {table['split']} split.",
    ]
    return "\n".join(lines) + "\n"


def minus(table: dict[str, Any]) -> str:
    """What the column of differences holds."""
    if not table["reference"]:
        return "minus the best baseline"
    label = next(r["label"] for r in table["rows"] if r["arm"] == table["reference"])
    return f"{label} minus it"


def standing(table: dict[str, Any], row: dict[str, Any]) -> str:
    """What a row without a difference is."""
    if row["arm"] == table["reference"]:
        return "reference"
    best = table["baselines"].get(str(row["budget"]), {}).get("arm")
    return "best baseline" if row["arm"] == best else "baseline"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _with_interval(value: float | None, bounds: dict[str, Any], sign: bool = False) -> str:
    return f"{words.number(value, sign=sign)} {words.interval(bounds['low'], bounds['high'], sign=sign)}"
