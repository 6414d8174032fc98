#!/usr/bin/env bash
# A vitmed whose datasets and run lie in a bucket: brought in before, sent out every so often and at the end. See --help.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

help() {
  cat <<'TEXT'
bash launch/stage.sh [--data ADDRESS=FOLDER]... [--run FOLDER=ADDRESS]... [--every SECONDS] -- VERB ...

Runs vitmed VERB ... on this machine with data and runs that are kept in object storage (s3://, gs://; extra cloud):

  --data ADDRESS=FOLDER   copied to FOLDER before; what is there already is not copied again
  --run FOLDER=ADDRESS    brought to FOLDER before, if ADDRESS has it and FOLDER has not come as far, so that the run goes
                          on; sent back every so often and at the end, however it ends. Old checkpoints are removed there
                          as they are here
  --every SECONDS         between two sendings (default 300)

The exit code is that of vitmed, also where the last sending fails, which is said. TERM is handed on: the run saves itself,
ends with 75, and is sent.

  bash launch/stage.sh --data gs://bucket/chest=/scratch/chest --run /scratch/mae=gs://bucket/runs/mae -- \
      train --config configs/pretrain_mae.py --config.data.path=/scratch/chest --workdir /scratch/mae

Of several processes that share the folders, all may be started by it: one copies, the others wait, and the one whose
number is 0 (VITMED_PROCESS or SLURM_PROCID) sends. On machines without a shared disk each brings its own data in; the
run's folder must be shared among all (vitmed doctor looks), for process 0 writes it and all read it.
TEXT
}

stop() { echo "stage.sh: $*" >&2; exit 2; }
vitmed=${VITMED:-$project/.venv/bin/vitmed}

data=() runs=() every=300
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) help; exit ;;
    --) shift; break ;;
    --data | --run | --every)
      [ $# -gt 1 ] || stop "$1 has no value"
      case $1 in --data) data+=("$2") ;; --run) runs+=("$2") ;; --every) every=$2 ;; esac
      shift 2 ;;
    *) stop "$1 is no option of this script; put -- before the verb (see --help)" ;;
  esac
done
[ $# -gt 0 ] || stop "nothing to run; end with -- train --config ... --workdir ..."
[[ $every =~ ^[1-9][0-9]*$ ]] || stop "--every $every is not a number of seconds"
for pair in ${data[@]+"${data[@]}"}; do [[ $pair == *://*=* ]] || stop "--data $pair is not ADDRESS=FOLDER"; done
for pair in ${runs[@]+"${runs[@]}"}; do [[ $pair == *=*://* ]] || stop "--run $pair is not FOLDER=ADDRESS"; done

# FOLDER=ADDRESS, of which the folder's own name may hold a "=".
address() { local scheme=${1%%://*}; echo "${scheme##*=}://${1#*://}"; }
folder() { local scheme=${1%%://*}; echo "${scheme%=*}"; }

for pair in ${data[@]+"${data[@]}"}; do "$vitmed" stage "${pair%=*}" "${pair##*=}"; done
for pair in ${runs[@]+"${runs[@]}"}; do "$vitmed" stage --if-there --goes-on "$(address "$pair")" "$(folder "$pair")"; done

send() {
  [ "${VITMED_PROCESS:-${SLURM_PROCID:-0}}" = 0 ] || return 0
  for pair in ${runs[@]+"${runs[@]}"}; do
    # A run that ended before it had a folder has nothing to send.
    [ ! -d "$(folder "$pair")" ] || "$vitmed" stage --delete "$(folder "$pair")" "$(address "$pair")" ||
      echo "stage.sh: $(folder "$pair") was not sent" >&2
  done
}

# In a group of its own: bash has others that it starts beside it pass over ctrl-C.
set -m
"$vitmed" "$@" &
work=$!
set +m
trap 'kill -TERM $work 2>/dev/null || true' TERM
trap 'kill -INT $work 2>/dev/null || true' INT
(
  # Ended while it waits at once, and while it sends when that is done.
  trap 'kill "$nap" 2>/dev/null || true; exit 0' TERM
  while :; do
    sleep "$every" >/dev/null 2>&1 &
    nap=$!
    wait "$nap" || true
    send
  done
) &
sender=$!
while :; do
  code=0
  wait "$work" || code=$?
  kill -0 "$work" 2>/dev/null || break # a signal ends the waiting, not the work
done
kill "$sender" 2>/dev/null || true
wait "$sender" 2>/dev/null || true
send
exit "$code"
