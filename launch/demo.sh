#!/usr/bin/env bash
# From nothing to a report: sets vitmed up beside this script, once, and runs its demo. See --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up "$project/.venv"

out=$project/demo given=no previous=""
for word in "$@"; do
  case $word in
    -h | --help)
      cat <<TEXT
bash launch/demo.sh [--out DIR] [--data PATH] ...

Sets vitmed up in $project/.venv (the first time: 1 to 2 minutes and
1.5 GB; with an NVIDIA GPU its packages come too), then runs the whole path once and says where the report
is. Call it again and it goes on from what is there. Results go to $out
unless --out says otherwise. Every word after the script's name is handed to the demo:

TEXT
      exec "$project/.venv/bin/vitmed" demo --help
      ;;
    --out=*) given=yes out=${word#--out=} ;;
  esac
  if [ "$previous" = --out ]; then given=yes out=$word; fi
  previous=$word
done
if [ "$given" = no ]; then set -- --out "$out" "$@"; fi

"$project/.venv/bin/vitmed" demo "$@"
page=$(cd "$out" && find "$PWD" -maxdepth 2 -name 'report*.html' | sort | head -n 1)
echo "The report: ${page:-none was written to $out}" >&2
