#!/usr/bin/env bash
# Hands a training or a study to Slurm, as one job that comes back by itself until it is done. See --help.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

help() {
  cat <<'TEXT'
bash launch/slurm/submit.sh [options] CONFIG --workdir RUN [--config.KEY=VALUE ...]
bash launch/slurm/submit.sh [options] -- VERB ...

Submits `vitmed train --config CONFIG ...` (or any verb after --), one process a task, and prints the job's number.
120 seconds before its time is up, and when it is preempted, the run saves and ends with code 75; the job is then queued
again, under the same number, and goes on from there. So ask for a short --time: short jobs start sooner.

  --nodes N            machines (default 1)
  --tasks-per-node N   processes on each (default 1, which uses all GPUs of the machine that the job was given)
  --gpus-per-node N    GPUs of each machine (default 0)
  --cpus-per-task N    cores of each process (default 8)
  --mem SIZE           of each machine (default: the partition's)
  --time T             of one stay in the queue's machines (default 4:00:00)
  --array RANGE        one job for each number of 0-4, 1,3,7, ...: %a in any word of the command becomes it
  --name NAME          of the job (default vitmed)
  --logs DIR           JOB.log of the job and JOB-RANK.log of each process (default logs)
  --python FILE        that has vitmed (default .venv/bin/python of this clone, which for GPUs must have the extra gpu)
  --sbatch WORD        any other option of sbatch, such as --sbatch=--partition=gpu --sbatch=--account=lab; may be repeated
  --wait               comes back when the job has ended, with its code
  --dry-run            shows what would be submitted

  bash launch/slurm/submit.sh --nodes 2 --gpus-per-node 8 configs/pretrain_mae.py:l16,224 --workdir runs/mae \
      --config.data.path=data/chest
  bash launch/slurm/submit.sh --gpus-per-node 1 --array 0-4 configs/finetune_classify.py --workdir runs/draw-%a \
      --config.data.path=data/chest --config.data.labels=0.1 --config.data.label_seed=%a
  bash launch/slurm/submit.sh --gpus-per-node 8 -- study --config configs/study/pneumoniamnist.py --workdir studies/p --jobs 8
  bash launch/slurm/submit.sh --nodes 2 --gpus-per-node 8 --wait -- doctor --workdir runs      (is everything in order?)
TEXT
}

stop() { echo "submit.sh: $*" >&2; exit 2; }

nodes=1 tasks=1 gpus=0 cpus=8 mem="" time=4:00:00 array="" name=vitmed logs=logs dry="" wait="" python=""
more=() words=()
while [ $# -gt 0 ]; do
  option=${1%%=*} value=${1#*=}
  case $1 in
    -h | --help) help; exit ;;
    --) shift; words=("$@"); break ;;
    --dry-run) dry=yes; shift; continue ;;
    --wait) wait=--wait; shift; continue ;;
    --nodes* | --tasks-per-node* | --gpus-per-node* | --cpus-per-task* | --mem* | --time* | --array* | --name* | --logs* | --python* | --sbatch*)
      if [ "$option" = "$1" ]; then
        [ $# -gt 1 ] || stop "$1 has no value"
        value=$2; shift
      fi
      shift
      case $option in
        --nodes) nodes=$value ;;
        --tasks-per-node) tasks=$value ;;
        --gpus-per-node) gpus=$value ;;
        --cpus-per-task) cpus=$value ;;
        --mem) mem=$value ;;
        --time) time=$value ;;
        --array) array=$value ;;
        --name) name=$value ;;
        --logs) logs=$value ;;
        --python) python=$value ;;
        --sbatch) more+=("$value") ;;
        *) stop "$option is not known (see --help)" ;;
      esac ;;
    -*) stop "$1 is no option of this script; options of vitmed come after the config (see --help)" ;;
    *) words=(train --config "$@"); break ;;
  esac
done
[ ${#words[@]} -gt 0 ] || stop "nothing to run; name a config (see --help)"
for number in nodes tasks gpus cpus; do
  [[ ${!number} =~ ^[0-9]+$ ]] || stop "$number is ${!number}; a number was expected"
done
if [ -z "$python" ]; then
  project=$(cd "$here/../.." && pwd)
  python=$project/.venv/bin/python
  # Set up where there is no GPU it has none of the packages for one. Of a --python, which may be a program that starts a
  # container on the node, nothing can be told here.
  if [ "$gpus" -gt 0 ] && [ -x "$python" ] && ! "$python" -c 'import jax_plugins' 2>/dev/null; then
    stop "the job asks for GPUs, and $project/.venv lacks the packages for them; add them: '$project/.venv/bin/pip' install -e '${project}[gpu]'"
  fi
fi
[ -x "$python" ] || stop "$python is not there; set vitmed up (bash launch/demo.sh --help does) or name a --python"

command=(
  sbatch --parsable --job-name="$name" --nodes="$nodes" --ntasks-per-node="$tasks" --cpus-per-task="$cpus" --time="$time"
  --requeue --open-mode=append --signal=TERM@120 --export=ALL
)
[ "$gpus" -eq 0 ] || command+=(--gpus-per-node="$gpus")
[ -z "$mem" ] || command+=(--mem="$mem")
[ -z "$array" ] || command+=(--array="$array")
[ -z "$wait" ] || command+=("$wait")
job=%j
[ -z "$array" ] || job=%A_%a
command+=(--output="$logs/$job.log" "${more[@]}" "$here/job.sbatch" "$logs" "$python" "${words[@]}")
if [ -n "$dry" ]; then
  printf '%q ' "${command[@]}"; echo
  exit
fi
command -v sbatch >/dev/null || stop "sbatch is not here; call this on a login node of the cluster"
mkdir -p "$logs"
exec "${command[@]}"
