"""Makes docs/scaling.md: ViTs of four sizes on slices of TPUs and on GPUs, each cell planned by ``vitmed plan``.

  pip install 'vitmed[plan]'
  python docs/scaling.py                 every cell that docs/scaling.csv has not got: about 2 minutes for each of a TPU
  python docs/scaling.py --minutes 60    as many as are begun within an hour; the same command goes on
  python docs/scaling.py --chip h100     those of one kind of chip

Delete docs/scaling.csv to plan all of them anew.
"""

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CELLS, PAGE = HERE / "scaling.csv", HERE / "scaling.md"

MODELS = {"b": "ViT-B", "l": "ViT-L", "h": "ViT-H", "g": "ViT-g"}
# What is trained on: title, argument of the config after the variant, and the batch of "stops at".
TASKS = {
    "2d": ("2D, 224 x 224, patches of 16 (196 tokens)", "16,224", 4096),
    "96": ("3D, 96 x 96 x 96, patches of 16 (216 tokens)", "16,96x96x96", 4096),
    "160": ("3D, 160 x 160 x 160, patches of 8 (8,000 tokens)", "8,160x160x160", 1024),
}
# Of a chip's share of the batch, by its memory: few-token and many-token scans.
EXAMPLES = {"v5e": (16, 1), "v5p": (64, 4), "h100": (64, 4)}
TOPOLOGIES = ("v5e:4x4", "v5e:16x16", "v5p:4x4x4", "v5p:8x8x8", "h100:8", "h100:64", "h100:512")
COLUMNS = (
    *("task", "model", "topology", "chips", "command", "estimate", "fits", "rules", "remat", "accumulate"),
    *(
        "gigabytes",
        "memory",
        "teraflops",
        "sent_gigabytes",
        "compute_ms",
        "collective_ms",
        "images_per_second",
    ),
    "mfu",
)


def command(task: str, model: str, topology: str) -> list[str]:
    """``vitmed plan`` of a cell: bfloat16, and the state of the two larger models over eight chips each."""
    arg = TASKS[task][1]
    chips = math.prod(int(side) for side in topology.partition(":")[2].split("x"))
    examples = examples_of(task, topology)
    made = ["plan", "--config", f"configs/pretrain_mae.py:{model}{arg}", "--topology", topology]
    made += ["--config.model.dtype=bfloat16", f"--config.train.batch_size={examples * chips}"]
    if model in "hg":
        made += ["--config.parallel.rules=fsdp", "--config.parallel.mesh=data=-1,fsdp=8"]
    return made


def examples_of(task: str, topology: str) -> int:
    """A chip's."""
    return EXAMPLES[topology.partition(":")[0]][task == "160"]


def planned(task: str, model: str, topology: str) -> dict:
    """A row of the table: the config as it is where it fits, else the best of the ways that were tried."""
    arguments = command(task, model, topology)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "vitmed", *arguments, "--json"],
        cwd=HERE.parent,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"vitmed {' '.join(arguments)} ended with exit code {done.returncode}")
    told = json.loads(done.stdout.splitlines()[-1])
    best = next((one for one in told["tried"] if one["settings"] == told["recommended"]), told)

    def ms(seconds):
        return "" if seconds is None else round(1000 * seconds, 2)

    return {
        "task": task,
        "model": model,
        "topology": topology,
        "chips": best["chips"],
        "command": " ".join(("vitmed", *arguments)),
        "estimate": best["estimate"],
        "fits": best["fits"],
        "rules": best["settings"]["parallel.rules"],
        "remat": best["settings"]["parallel.remat"],
        "accumulate": best["settings"]["parallel.accumulate"],
        "gigabytes": round(best["bytes_per_chip"] / 1e9, 2),
        "memory": round(best["memory_per_chip"] / 1e9, 1),
        "teraflops": round(best["model_flops_per_chip"] / 1e12, 3),
        "sent_gigabytes": round(best["collective_bytes_per_chip"] / 1e9, 3),
        "compute_ms": ms(best["compute_seconds"]),
        "collective_ms": ms(best["collective_seconds"]),
        "images_per_second": best["images_per_second"] or "",
        "mfu": best["mfu"] or "",
    }


def read() -> dict[tuple[str, str, str], dict]:
    """The cells that have been planned."""
    if not CELLS.exists():
        return {}
    with open(CELLS, newline="") as file:
        return {(row["task"], row["model"], row["topology"]): row for row in csv.DictReader(file)}


def write(cells: dict[tuple[str, str, str], dict]) -> None:
    part = CELLS.with_suffix(".part")
    with open(part, "w", newline="") as file:
        rows = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        rows.writeheader()
        rows.writerows(cells[key] for key in ORDER if key in cells)
    part.replace(CELLS)
    PAGE.write_text(page(read()))


def page(cells: dict[tuple[str, str, str], dict]) -> str:
    """docs/scaling.md."""
    lines = [
        "# How far it scales",
        "",
        "Pretraining by MAE (`configs/pretrain_mae.py`, with the decoder it ships: eight layers of width 512) in bfloat16,",
        "planned by `vitmed plan` and made by `python docs/scaling.py`. No chip was used: the TPUs' rows are their own",
        "compiler's bytes and cycles, with collectives over the stated links *one after the other*, so that they are",
        "slow rather than fast; the H100s' are a roofline with collectives *beside* the computation, which no run",
        "reaches. The two kinds of rows are not to be compared with one another.",
        "",
        "* **GB**: of a chip's memory, of what it has.",
        "* **sent**: by a chip in a step. **share**: of collectives in the time of both.",
        "* **efficiency**: images a second and chip, of those without any collectives.",
        "* **stops at**: the number of chips on which a batch of 4,096 scans (1,024 of 160 x 160 x 160) spends as long in",
        "  collectives as in computing, by this row's times: beyond, twice the chips are far from twice as fast. The",
        "  state's sums take as long whatever the batch; computing shrinks with the examples that are left for a chip.",
        "  *batch*: before that, each chip has one scan left, and only a larger batch or `tensor` goes further.",
        "",
        "A chip's share of the batch is 16 scans on a v5e and 64 on the larger ones; of 160 x 160 x 160 it is 1 and 4.",
        "",
    ]
    for task, (title, _, batch) in TASKS.items():
        lines += [
            f"## {title}",
            "",
            "| model | chips | state, remat | GB | TFLOP | sent, GB | step, ms | share | efficiency | images/s | MFU | stops at |",
            "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for key in ORDER:
            if key[0] == task:
                lines.append(line(key, cells.get(key), batch))
        lines.append("")
    lines += ["## Commands", "", "A row's own, for example:", ""]
    lines += [
        f"    {' '.join(('vitmed', *command(*key)))}"
        for key in (ORDER[0], ("160", "l", "v5e:16x16"), ("2d", "g", "h100:64"))
    ]
    return "\n".join((*lines, ""))


def line(key: tuple[str, str, str], cell: dict | None, batch: int) -> str:
    """A row of a table of the page; one that has not been planned says so."""
    task, model, topology = key
    start = f"| {MODELS[model]} | {topology} |"
    if cell is None:
        return start + " not planned yet |" + " |" * 9
    state = f"{cell['rules']}, {cell['remat']}"
    if cell["accumulate"] != "1":
        state += f", in {cell['accumulate']} parts"
    held = f"{float(cell['gigabytes']):.1f} of {float(cell['memory']):.0f}"
    if cell["fits"] != "True":
        return f"{start} {state} | {held} | {float(cell['teraflops']):.2f} | does not fit |" + " |" * 6
    computing, travelling = float(cell["compute_ms"]), float(cell["collective_ms"])
    beside = cell["estimate"] == "True"
    step = max(computing, travelling) if beside else computing + travelling
    share = travelling / (computing + travelling)
    stops = batch * computing / examples_of(task, topology) / travelling if travelling else math.inf
    last = f"{stops:,.0f}" if stops < batch else f"{batch:,} (batch)"
    return (
        f"{start} {state} | {held} | {float(cell['teraflops']):.2f} | {float(cell['sent_gigabytes']):.2f} | {step:,.0f} "
        f"| {share:.0%} | {computing / step:.0%} | {float(cell['images_per_second']):,.0f} | {float(cell['mfu']):.0%} "
        f"| {last} |"
    )


ORDER = [(task, model, topology) for task in TASKS for model in MODELS for topology in TOPOLOGIES]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, help="begin no cell after so many")
    parser.add_argument("--chip", help="plan the cells of this kind of chip alone, such as v5e")
    args = parser.parse_args()
    began, cells = time.monotonic(), read()
    todo = [key for key in ORDER if key not in cells and args.chip in (None, key[2].partition(":")[0])]
    for number, key in enumerate(todo):
        if args.minutes is not None and time.monotonic() - began > 60 * args.minutes:
            break
        print(f"{number + 1} of {len(todo)}: vitmed {' '.join(command(*key))}", file=sys.stderr)
        cells[key] = planned(*key)
        write(cells)
    write(cells)


if __name__ == "__main__":
    main()
