#!/usr/bin/env bash
# What tpu.sh runs on every worker of a slice: VERB ... as one of the processes, which the slice's metadata numbers.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

told() { curl -sf -H 'Metadata-Flavor: Google' "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"; }

# "name:port:address" of every worker, with commas between, in their order.
IFS=, read -ra workers <<<"$(told worker-network-endpoints)"
if [ ${#workers[@]} -gt 1 ]; then
  VITMED_PROCESS=$(told agent-worker-number)
  export VITMED_PROCESS VITMED_PROCESSES=${#workers[@]} JAX_COORDINATOR_ADDRESS="${workers[0]##*:}:8476"
fi
staged=()
[ -z "${VITMED_DATA:-}" ] || staged+=(--data "$VITMED_DATA")
[ -z "${VITMED_RUN:-}" ] || staged+=(--run "$VITMED_RUN")
if [ ${#staged[@]} -gt 0 ]; then
  exec bash "$project/launch/stage.sh" "${staged[@]}" -- "$@"
fi
exec "$project/.venv/bin/vitmed" "$@"
