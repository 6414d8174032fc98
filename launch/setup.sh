# shellcheck shell=bash
# Sourced by demo.sh, test.sh and .ci/run: makes a virtual environment with vitmed in it, once.
#
#   set_up VENV [PYTHON]    an environment at VENV, ready to use; PYTHON is searched for when not given
#
# A finished environment carries a stamp of what it was made from, so the next call takes no time. One that
# was interrupted while packages were being written (ctrl-C, power, disk full) carries a mark instead, and is
# made again from nothing: pip cannot tell half a package from a whole one.

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV # another project's environment must not leak into this one
export PIP_DISABLE_PIP_VERSION_CHECK=1

stop() { echo "$*" >&2; exit 3; }

# Prints the first Python of a supported version (of version $1, such as 3.12, if given). Each is asked by
# running it, because a pyenv shim can be there and still refuse.
# shellcheck disable=SC2120 # .ci/run gives a version
find_python() {
  local candidate
  for candidate in "python${1:-3}" python3.13 python3.12 python3.11 ~/.pyenv/versions/"${1:-3}"*/bin/python; do
    if "$candidate" -c 'import sys
here, wanted = "%d.%d" % sys.version_info[:2], sys.argv[1]
sys.exit(here not in ("3.11", "3.12", "3.13") or wanted not in ("", here))' "${1:-}" 2>/dev/null; then
      command -v "$candidate"
      return 0
    fi
  done
  return 1
}

# What an environment is made from: any change in it makes the environment again.
made_from() {
  echo "$project, extra: ${2:-none}" && "$1/bin/python" -c 'import sys; print(sys.version)'
  cat "$project/requirements.txt" "$project/pyproject.toml"
}

ready() { [ -e "$1/.ready" ] && [ ! -e "$1/.incomplete" ] && [ "$(made_from "$1" "$2" 2>/dev/null)" = "$(cat "$1/.ready")" ]; }

# Shows that a long and silent command is alive: seconds and megabytes so far, until this script ends.
show_growth() {
  local started=$SECONDS
  while sleep 10 >&- 2>&- && kill -0 $$ 2>/dev/null; do
    echo "  $((SECONDS - started)) s, $(du -sm "$1" 2>/dev/null | cut -f1) MB" >&2
  done
}

install_into() {
  local venv=$1 extra=$2 python=$3 log=$1/set-up.log started=$SECONDS ticker
  if [ -e "$venv/.incomplete" ] || { [ -e "$venv" ] && ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
    echo "$venv was left unfinished: making it again." >&2
    rm -rf "$venv"
  fi
  echo "Setting up $venv: 1 to 2 minutes and 1.5 GB${extra:+, and as long and 4 GB more for the $extra}. Only this once." >&2
  mkdir -p "$venv" && touch "$venv/.incomplete" || stop "$venv cannot be written; clone vitmed where you may write."
  rm -f "$venv/.ready"
  show_growth "$venv" 9>&- & ticker=$!
  # shellcheck disable=SC2064 # the number of now: the variable is gone when the trap runs
  trap "kill $ticker 2>/dev/null || true" EXIT
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv" >"$log" 2>&1 ||
    stop "$python cannot make a virtual environment (on Debian or Ubuntu: apt install python3-venv); $log says why."
  "$venv/bin/python" -m pip install -q -r "$project/requirements.txt" -e "$project${extra:+[$extra]}" >"$log" 2>&1 || {
    grep -v '^WARNING' "$log" | tail -n 5 >&2 || true
    stop "pip could not install vitmed: the lines above say why, and $log says all of it. Run this again when it is mended."
  }
  made_from "$venv" "$extra" >"$venv/.ready"
  rm "$venv/.incomplete"
  echo "Set up in $((SECONDS - started)) s." >&2
}

set_up() {
  local venv=$1 python=${2:-} extra=""
  # The accelerator's packages are taken where its driver answers; without one they are gigabytes for nothing.
  if nvidia-smi >/dev/null 2>&1; then extra=gpu; fi
  if ready "$venv" "$extra"; then return 0; fi
  [ -n "$python" ] || python=$(find_python) ||
    stop "vitmed needs Python 3.11, 3.12 or 3.13; found $(python3 --version 2>/dev/null || echo none). Install one and run this again."
  # Two set-ups at once (the demo in one window, the tests in another) would undo each other: the second waits.
  # Whatever installs inherits the lock, so a killed script's pip is waited for too.
  (
    if command -v flock >/dev/null; then flock -n 9 || { echo "Another set-up of $venv is at work; waiting for it." >&2; flock 9; }; fi
    ready "$venv" "$extra" || install_into "$venv" "$extra" "$python"
  ) 9>"$venv.lock"
}
