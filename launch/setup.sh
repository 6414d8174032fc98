# shellcheck shell=bash
# Sourced by demo.sh, test.sh, local.sh and .ci/run: makes a virtual environment with vitmed in it, once.
#
#   set_up VENV [PYTHON]    an environment at VENV, ready to use; PYTHON is searched for when not given
#
# A finished environment carries a stamp of what it was made from, so the next call takes no time. One that
# was interrupted while packages were being written (ctrl-C, power, disk full) carries a mark instead, and is
# made again from nothing: pip cannot tell half a package from a whole one.
#
# The GPU's packages (extra gpu) stand beside all others, which do without them. So an environment that has them is good
# on every machine, and one that lacks them works: it is never marked while they are added, for on a cluster other nodes
# share it.

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
  echo "$project" && "$1/bin/python" -c 'import sys; print(sys.version)'
  cat "$project/requirements.txt" "$project/pyproject.toml"
}

# Whether the GPU's packages are there, whoever added them: RECORD is the last that pip writes of a package.
has_gpu() { compgen -G "$1/lib/python3*/site-packages/jax_cuda*_plugin-*.dist-info/RECORD" >/dev/null; }

# Whether the environment $1 is finished, and has the GPU's packages where $2 says gpu.
ready() {
  [ -e "$1/.ready" ] && [ ! -e "$1/.incomplete" ] && [ "$(made_from "$1" 2>/dev/null)" = "$(cat "$1/.ready")" ] &&
    { [ -z "${2:-}" ] || has_gpu "$1"; }
}

# Shows that a long and silent command is alive: seconds and megabytes so far, until this script ends.
show_growth() {
  local started=$SECONDS
  while sleep 10 >&- 2>&- && kill -0 $$ 2>/dev/null; do
    echo "  $((SECONDS - started)) s, $(du -s -B 1000000 "$1" 2>/dev/null | cut -f1) MB" >&2
  done
}

# pip install WORDS in the environment $1; what it says goes to set-up.log there, and the end of it here where it fails.
pip_install() {
  local venv=$1 log=$1/set-up.log ticker
  shift
  show_growth "$venv" 9>&- & ticker=$!
  # shellcheck disable=SC2064 # the number of now: the variable is gone when the trap runs
  trap "kill $ticker 2>/dev/null || true" EXIT
  "$venv/bin/python" -m pip install -q "$@" >"$log" 2>&1 || {
    grep -v '^WARNING' "$log" | tail -n 5 >&2 || true
    return 1
  }
}

install_into() {
  local venv=$1 extra=$2 python=$3 log=$1/set-up.log started=$SECONDS
  if [ -e "$venv/.incomplete" ] || { [ -e "$venv" ] && ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
    echo "$venv was left unfinished: making it again." >&2
    rm -rf "$venv"
  fi
  echo "Setting up $venv: 1 to 2 minutes and 1.6 GB${extra:+, and as long and 4 GB more for the $extra}. Only this once." >&2
  mkdir -p "$venv" && touch "$venv/.incomplete" || stop "$venv cannot be written; clone vitmed where you may write."
  rm -f "$venv/.ready"
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv" >"$log" 2>&1 ||
    stop "$python cannot make a virtual environment (on Debian or Ubuntu: apt install python3-venv); $log says why."
  pip_install "$venv" -r "$project/requirements.txt" -e "$project${extra:+[$extra]}" ||
    stop "pip could not install vitmed: the lines above say why, and $log says all of it. Run this again when it is mended."
  made_from "$venv" >"$venv/.ready"
  rm "$venv/.incomplete"
  echo "Set up in $((SECONDS - started)) s." >&2
}

# Adds the GPU's packages to an environment that works, and changes nothing else in it.
add_gpu() {
  local venv=$1 packages started=$SECONDS
  read -ra packages < <("$venv/bin/python" -c 'import sys, tomllib
print(*tomllib.load(sys.stdin.buffer)["project"]["optional-dependencies"]["gpu"])' <"$project/pyproject.toml")
  echo "Adding the GPU's packages to $venv: 1 to 2 minutes and 4 GB. Only this once." >&2
  # Where there is no internet, as on many a cluster's nodes, each start tries in vain: not for minutes.
  if pip_install "$venv" --retries 1 "${packages[@]}"; then
    echo "Added in $((SECONDS - started)) s." >&2
  else
    echo "The GPU's packages could not be added, so vitmed computes on the CPU here; on a machine that has internet and" \
      "sees this folder (a login node), run: '$venv/bin/pip' install -e '${project}[gpu]'" >&2
  fi
}

set_up() {
  local venv=$1 python=${2:-} extra=""
  # Taken where the GPU's driver answers, and kept where they are; elsewhere they are gigabytes for nothing.
  if has_gpu "$venv" || nvidia-smi >/dev/null 2>&1; then extra=gpu; fi
  if ready "$venv" "$extra"; then return 0; fi
  [ -n "$python" ] || python=$(find_python) ||
    stop "vitmed needs Python 3.11, 3.12 or 3.13; found $(python3 --version 2>/dev/null || echo none). Install one and run this again."
  # Two set-ups at once (the demo in one window, the tests in another) would undo each other: the second waits.
  # Whatever installs inherits the lock, so a killed script's pip is waited for too.
  (
    if command -v flock >/dev/null; then flock -n 9 || { echo "Another set-up of $venv is at work; waiting for it." >&2; flock 9; }; fi
    if ! ready "$venv"; then
      install_into "$venv" "$extra" "$python"
    elif ! ready "$venv" "$extra"; then
      add_gpu "$venv"
    fi
  ) 9>"$venv.lock"
}
