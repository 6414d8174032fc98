#!/usr/bin/env bash
# N processes of one training on this machine. See --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
if [[ ! ${1:-} =~ ^[1-9][0-9]*$ ]] || [ $# -lt 2 ]; then
  cat <<TEXT
bash launch/local.sh N VERB ...

Runs "vitmed VERB ..." as N processes that work together on this machine:

  bash launch/local.sh 2 train --config configs/pretrain_mae.py --workdir runs/mae --config.data.path=DATASET

Process 0 speaks, and its exit code is the script's. What the others say goes to a file each, in the folder VITMED_LOGS
names, or else in a new one that is kept only if something went wrong. Ctrl-C and SIGTERM reach all. Where one process
dies the others end within a minute. VITMED_PYTHON names a Python that has vitmed, if not the one set up beside this script.
TEXT
  case ${1:-} in -h | --help) exit 0 ;; *) exit 2 ;; esac
fi
count=$1
shift
python=${VITMED_PYTHON:-$project/.venv/bin/python}
[ -n "${VITMED_PYTHON:-}" ] || set_up "$project/.venv"

export VITMED_PROCESSES=$count
port=$("$python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port
logs=${VITMED_LOGS:-$(mktemp -d "${TMPDIR:-/tmp}/vitmed-logs.XXXXXX")}
mkdir -p "$logs"

set -m # every process in a group of its own: a ctrl-C comes here alone, and from here to each once
pids=()
pass_on() { for pid in "${pids[@]}"; do kill -s "$1" -- "-$pid" 2>/dev/null || true; done; }
trap 'pass_on INT' INT
trap 'pass_on TERM' TERM
trap 'pass_on KILL' EXIT
for ((i = 0; i < count; i++)); do
  if [ "$i" = 0 ]; then
    VITMED_PROCESS=0 "$python" -m vitmed "$@" </dev/null &
  else
    VITMED_PROCESS=$i "$python" -m vitmed "$@" </dev/null >"$logs/$i.log" 2>&1 &
  fi
  pids+=($!)
done

# Waits for all of them; a signal that is passed on only interrupts a wait. After a fault the others get a minute.
codes=()
fault=""
alive() { kill -0 "$1" 2>/dev/null; }
while :; do
  left=0
  for ((i = 0; i < count; i++)); do
    if [ -n "${codes[i]:-}" ]; then continue; fi
    if alive "${pids[i]}"; then
      left=$((left + 1))
    else
      code=0
      wait "${pids[i]}" || code=$?
      codes[i]=$code
      case $code in
        0 | 75 | 130) ;;
        *)
          [ -n "$fault" ] || deadline=$((SECONDS + 60))
          [ "$code" -le 128 ] || echo "vitmed: process $i of $count was ended by signal $((code - 128))" >&2
          fault="$fault $i"
          ;;
      esac
    fi
  done
  [ "$left" -gt 0 ] || break
  if [ -n "$fault" ] && [ "$SECONDS" -ge "$deadline" ]; then
    echo "vitmed: the other processes have not ended within a minute and are killed" >&2
    pass_on KILL
    deadline=$((SECONDS + 60))
  fi
  sleep 0.2 & wait $! || true
done
trap - EXIT

for i in $fault; do
  [ "$i" = 0 ] || { echo "--- the end of process $i's output, $logs/$i.log:" >&2 && tail -n 15 "$logs/$i.log" >&2; }
done
if [ -z "$fault" ] && [ -z "${VITMED_LOGS:-}" ]; then rm -rf "$logs"; fi
exit "${codes[0]}"
