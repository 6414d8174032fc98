"""The dispatcher: finds the verb, parses its arguments, turns faults into exit codes.

A verb is a module of this folder with ``HELP`` (one line), ``arguments(parser)`` and ``run(args) -> dict``. It is
imported when it is called, and imports its rooms when it runs, so that ``--help`` answers at once. ``TAKES_CONFIG``
says that it takes ``--config.KEY=VALUE``, ``TOGETHER`` that it can run as several processes, which a launcher starts
(``vitmed.parallel.cluster``), ``EACH`` that each of these may run it by itself, ``goes_on(args)`` gives what the same
command goes on from after an interruption ("" where there is nothing), and ``code(result)`` an exit code of its own
where it is not 0.
"""

import argparse
import errno
import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

from vitmed import __version__
from vitmed.errors import InputError, VitmedError
from vitmed.memory import restart_with_huge_pages
from vitmed.parallel import cluster, determinism

ORDER = (
    "demo",
    "ingest",
    "inspect",
    "withdraw",
    "train",
    "evaluate",
    "predict",
    "study",
    "report",
    "writeback",
    "plan",
    "doctor",
    "convert",
    "bench",
)
INTERRUPTED = 130
OVERRIDE = "--config."


def main(argv: list[str] | None = None) -> int:
    """Runs one verb and returns its exit code; see the README for what each code means."""
    if argv is None:
        restart_with_huge_pages()
        argv = sys.argv[1:]
    argv = list(argv)
    verbs = verb_names()
    if not argv or argv[0] in ("-h", "--help"):
        print(overview(verbs))
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"vitmed {__version__}")
        return 0
    if argv[0] not in verbs:
        return _say(InputError(f"{argv[0]!r} is not a verb of vitmed; choose one of {', '.join(verbs)}"))
    name, rest = argv[0], argv[1:]
    verb = importlib.import_module(f"vitmed.cli.{name}")
    parser = argparse.ArgumentParser(
        prog=f"vitmed {name}",
        description=verb.__doc__ or verb.HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verb.arguments(parser)
    parser.add_argument(
        "--json", action="store_true", help="print the result as one JSON object, last on standard output"
    )
    try:
        known, overrides = _overrides(rest) if getattr(verb, "TAKES_CONFIG", False) else (rest, {})
        args = parser.parse_args(known)
    except SystemExit as stop:  # argparse has printed its own sentence
        return int(stop.code or 0)
    except InputError as error:
        return _say(error)
    args.overrides = overrides
    if getattr(args, "deterministic", False):
        determinism.ask()
    try:
        several = cluster.place(os.environ) is not None and not getattr(verb, "EACH", False)
        if several and not getattr(verb, "TOGETHER", False):
            raise InputError(
                f"{name} runs as one process, and a launcher started several; start it by itself"
            )
    except InputError as error:
        return _say(error)
    return _together(verb, args) if several else _run(verb, args)[0]


def verb_names() -> list[str]:
    """The verbs there are: one a file, the newcomer's first."""
    found = {p.stem for p in Path(__file__).parent.glob("*.py")} - {"__init__", "main"}
    return [v for v in ORDER if v in found] + sorted(found - set(ORDER))


def overview(verbs: list[str]) -> str:
    """What ``vitmed --help`` prints."""
    lines = [
        "usage: vitmed VERB ...   (or: python -m vitmed VERB ...)",
        "",
        "From a folder of unlabelled scans to an evaluated model.",
        "",
        "verbs:",
    ]
    for verb in verbs:
        lines.append(f"  {verb:<12}{importlib.import_module(f'vitmed.cli.{verb}').HELP}")
    lines += [
        "",
        "  vitmed VERB --help explains one; every verb takes --json.",
        "  Exit codes: 0 done, 1 a fault of vitmed, 2 bad input, 3 the machine (disk, checkpoint),",
        "  75 preempted (queue it again), 130 interrupted.",
    ]
    return "\n".join(lines)


def _overrides(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Splits ``--config.key=value`` and ``--config.key value`` from the other arguments."""
    known, overrides, rest = [], {}, list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith(OVERRIDE):
            known.append(argument)
            continue
        key, equals, value = argument[len(OVERRIDE) :].partition("=")
        if not equals:
            if not rest:
                raise InputError(f"{argument} has no value; write {argument}=VALUE")
            value = rest.pop(0)
        overrides[key] = value
    return known, overrides


def _together(verb, args) -> int:
    """``_run`` as one of several processes, of which the first speaks."""
    from vitmed.parallel import processes

    def run(args):
        processes.start()
        try:
            return verb.run(args)
        except (VitmedError, KeyboardInterrupt):
            raise
        except Exception:
            processes.wait_for_news()
            raise
        finally:
            args.json = args.json and processes.index() == 0

    return processes.leave(*_run(SimpleNamespace(**{**vars(verb), "run": run}), args))


def _run(verb, args) -> tuple[int, str]:
    """The exit code, and the fault in a sentence."""
    try:
        result = verb.run(args)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        saved = verb.goes_on(args) if hasattr(verb, "goes_on") else ""
        rest = f"the same command goes on from {saved}" if saved else "nothing was left half done"
        print(f"\ninterrupted; {rest}", file=sys.stderr)
        return INTERRUPTED, "interrupted"
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0, ""
    except VitmedError as error:
        return _say(error), str(error)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            where = f" ({error.filename})" if error.filename else ""
            print(
                f"vitmed: no space to write{where}: {error.strerror}; free some and run the same command again",
                file=sys.stderr,
            )
            return 3, f"no space to write: {error.strerror}"
        traceback.print_exc()
        return 1, repr(error)
    except Exception as error:
        traceback.print_exc()
        print("vitmed: this is a fault of vitmed; please report it with the lines above", file=sys.stderr)
        return 1, repr(error)
    if args.json:
        sys.stdout.flush()
        print(json.dumps(result))
    return getattr(verb, "code", lambda result: 0)(result), ""


def _say(error: VitmedError) -> int:
    print(f"vitmed: {error}", file=sys.stderr)
    return error.exit_code
