#!/usr/bin/env bash
# A Cloud TPU slice: made, set up, used by all its workers, and made again after maintenance. See --help.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

help() {
  cat <<'TEXT'
bash launch/tpu_vm/tpu.sh create NAME --zone ZONE --type v5litepod-16 [--spot]
bash launch/tpu_vm/tpu.sh run    NAME --zone ZONE --type v5litepod-16 [--spot] -- VERB ...
bash launch/tpu_vm/tpu.sh delete NAME --zone ZONE

create  asks for the slice (and waits for it), copies this clone to every worker and installs vitmed there.
run     runs one vitmed on every worker at once, which find one another by the slice's metadata; worker 0 speaks.
        When the slice is taken away or under maintenance, or the run ends with code 75 (preempted: saved), it waits,
        makes the slice again where it is gone, and runs the same command, which goes on from the last checkpoint.
delete  gives the slice back: it costs money until then.

  --version V    of the TPU's system (default v2-alpha-tpuv5-lite; v6e: v2-alpha-tpuv6e; v5p: v2-alpha-tpuv5)
  --tries N      run: how often it is started again (default 100)

  bash launch/tpu_vm/tpu.sh create mae --zone us-west4-a --type v5litepod-16 --spot
  bash launch/tpu_vm/tpu.sh run mae --zone us-west4-a --type v5litepod-16 --spot -- \
      train --config configs/pretrain_mae.py:l16,224 --config.data.path=/mnt/data/chest --workdir /mnt/data/runs/mae

Datasets and runs must lie where every worker sees them under one path: a Filestore or a mounted bucket (gcsfuse). A
dataset that lies in a bucket is copied to each worker's own disk where VITMED_DATA=gs://BUCKET/FOLDER=/FOLDER is set for
run (launch/stage.sh, which also keeps the run of a slice with one worker in a bucket: VITMED_RUN=/FOLDER=gs://BUCKET/FOLDER).
Needs gcloud, signed in, with a project set. `vitmed plan --topology v5e:4x4` says beforehand whether it fits.
TEXT
}

stop() { echo "tpu.sh: $*" >&2; exit 2; }
told() { echo "tpu.sh: $*" >&2; }

case ${1:-} in -h | --help | "") help; exit ;; esac
what=$1 name=${2:-}
case $name in "" | -*) stop "$what needs the NAME of a slice" ;; esac
shift 2
zone="" type="" version=v2-alpha-tpuv5-lite tries=100 spot=""
while [ $# -gt 0 ]; do
  case $1 in
    --) shift; break ;;
    --spot) spot=--spot; shift ;;
    --zone | --type | --version | --tries) [ $# -gt 1 ] || stop "$1 has no value"; printf -v "${1#--}" %s "$2"; shift 2 ;;
    *) stop "$1 is no option of this script; put -- before the verb (see --help)" ;;
  esac
done
[ -n "$zone" ] || stop "--zone is missing"

vm() { gcloud compute tpus tpu-vm "$@" --zone="$zone" --quiet; }
everywhere() { vm ssh "$name" --worker=all --command="$1"; }
state() { vm describe "$name" --format='value(state)' 2>/dev/null || echo GONE; }

create() {
  [ -n "$type" ] || stop "--type is missing, such as v5litepod-16"
  # shellcheck disable=SC2086 # spot is one word or none
  vm create "$name" --accelerator-type="$type" --version="$version" $spot
  set_up
}

set_up() {
  local archive
  archive=$(mktemp)
  git -C "$project" archive --format=tar.gz -o "$archive" HEAD
  vm scp "$archive" "$name:vitmed.tar.gz" --worker=all
  rm -f "$archive"
  everywhere 'set -e; mkdir -p vitmed && tar xzf vitmed.tar.gz -C vitmed && cd vitmed && (command -v python3.11 >/dev/null || { sudo apt-get update -q && sudo apt-get install -y -q python3.11-venv; }) && python3.11 -m venv .venv && .venv/bin/pip install -q -e ".[tpu,cloud]"'
}

# Waits until the slice is there again, making it where it was taken away.
mend() {
  while :; do
    case $(state) in
      READY) return ;;
      GONE) told "the slice is gone; asking for it again"; create && return ;;
      PREEMPTED | TERMINATED | STOPPED)
        told "the slice was taken away; asking for it again"
        vm delete "$name" || true
        create && return ;;
      *) ;; # REPAIRING, RESTARTING, CREATING: under maintenance
    esac
    sleep "${TPU_SH_WAIT:-60}"
  done
}

run() {
  [ $# -gt 0 ] || stop "nothing to run; end with -- train --config ... --workdir ..."
  local words try code
  words=$(printf ' %q' "$@")
  local staged=""
  for name_of in VITMED_DATA VITMED_RUN; do
    [ -z "${!name_of:-}" ] || staged+="$name_of=$(printf %q "${!name_of}") "
  done
  for ((try = 1; try <= tries; try++)); do
    mend
    code=0
    everywhere "cd vitmed && ${staged}bash launch/tpu_vm/worker.sh$words" || code=$?
    case $code in
      0) return 0 ;;
      1 | 2 | 3 | 130) [ "$(state)" != READY ] || { told "ended with code $code"; return "$code"; } ;;
      *) ;; # 75: preempted and saved; others: the connection was lost with the slice
    esac
    told "stopped with code $code (try $try of $tries); the run goes on from its last checkpoint"
    sleep "${TPU_SH_WAIT:-60}"
  done
  return 75
}

case $what in
  create) create ;;
  run) run "$@" ;;
  delete) vm delete "$name" ;;
  *) stop "$what is none of create, run, delete" ;;
esac
