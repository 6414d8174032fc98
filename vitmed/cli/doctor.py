"""Look at this machine, or at all processes of a job, before hours are spent on it.

  vitmed doctor --workdir runs
  bash launch/local.sh 2 doctor --workdir runs
  bash launch/slurm/submit.sh --nodes 2 --gpus-per-node 8 --wait -- doctor --workdir runs

Versions against those that the tests pass on, devices, a sum over all of them (right? how fast?), the folder that runs are
written to (writable? renames in one step? how fast? the same for all processes?), clocks, the cluster's variables and the
container's limits. Each finding says what to do. Ends with code 3 where something will break, 0 otherwise.
"""

HELP = "look at this machine or job: versions, devices, collectives, disk, clocks, limits, and what to do about each"
TOGETHER = True

SIGNS = {"fine": "ok  ", "note": "note", "breaks": "BAD "}


def arguments(parser):
    parser.add_argument(
        "--workdir", default=".", metavar="DIR", help="where runs will be written (default: this folder)"
    )


def run(args) -> dict:
    from pathlib import Path

    from rich.console import Console

    from vitmed.scale.doctor import doctor

    result = doctor(Path(args.workdir))
    console = Console(stderr=args.json, highlight=False)
    for one in result["findings"]:
        console.print(f"{SIGNS[one['state']]} {one['check']}: {one['found']}", markup=False, soft_wrap=True)
        if one["todo"]:
            console.print(f"       {one['todo']}", markup=False, soft_wrap=True)
    return result


def code(result: dict) -> int:
    return 0 if result["fine"] else 3
