#!/usr/bin/env bash
# Sets vitmed up beside this script, once, and runs its tests. See --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
case ${1:-} in
  -h | --help)
    cat <<TEXT
bash launch/test.sh [PYTEST ARGUMENTS]

Sets vitmed up in $project/.venv (the first time: 1 to 2 minutes and
1.6 GB) and runs the tests in two processes: 12 to 20 minutes on two cores, less the second time, and up to 5 GB of
memory a process. Arguments go to pytest:

  bash launch/test.sh tests/models            one folder
  bash launch/test.sh -k resume -x            tests named so, stopping at the first failure
  bash launch/test.sh -n 8                    in eight processes; -n 0 is in this one

Tests on real scans find them in \$VITMED_TEST_DATA or in ../shared/data and are skipped, saying so, where
there are none; those that need PyTorch, Chromium or Apache Beam likewise. The dearest run when asked (-m slow), and so
do those that start a Slurm on this machine, as root (-m slurm). .ci/run installs everything and skips nothing.
TEXT
    exit
    ;;
esac
set_up "$project/.venv"
cd "$project"
# Most of the time goes into compiling, one program at a time: two processes keep two cores busy.
exec .venv/bin/python -m pytest -n 2 --dist worksteal "$@"
