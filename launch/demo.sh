#!/usr/bin/env bash
# From nothing to a report: sets vitmed up beside this script, once, and runs its demo. See --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up "$project/.venv"

for word in "$@"; do
  if [ "$word" = -h ] || [ "$word" = --help ]; then
    cat <<TEXT
bash launch/demo.sh [--out DIR] [--data PATH] ...

Sets vitmed up in $project/.venv (the first time: 1 to 2 minutes and
1.6 GB; with an NVIDIA GPU its packages come too), then runs the whole path once and says where the report
is. Call it again and it goes on from what is there. Results go to $project/demo
unless --out says otherwise. Every word after the script's name is handed to the demo:

TEXT
    exec "$project/.venv/bin/vitmed" demo --help
  fi
done
exec "$project/.venv/bin/vitmed" demo --out "$project/demo" "$@" # the last --out counts
