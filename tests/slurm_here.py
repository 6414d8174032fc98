"""A Slurm of two nodes on this machine, as the tests need it: its daemons, its own munge, its own folder.

What a person has to install is Debian's ``slurm-wlm`` and ``munge``; the rest lives in a temporary folder. It wants root,
since Slurm starts jobs as their users, and it names its nodes in /etc/hosts, where it takes them out again.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from short_runs import flags_of

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "munged")
NODES = ("vitmed-n1", "vitmed-n2")
HOSTS = Path("/etc/hosts")

CONF = """\
ClusterName=vitmed
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits for its former credential to end: two minutes, if nobody says otherwise.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdTimeout=20
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=batch_sched_delay=0,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[0]} CPUs=2
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=60
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""


class Slurm:
    """The cluster, up. ``environment`` is what its commands need."""

    daemons: contextlib.ExitStack  # what ends them

    def __init__(self, folder: Path):
        self.folder = folder
        self.nodes: dict[str, subprocess.Popen] = {}  # the daemon of each
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
            "SLURM_CONF": str(folder / "slurm.conf"),
            "XLA_FLAGS": flags_of(devices=1),
        }

    def __call__(self, *words: str, check: bool = True) -> str:
        """Runs a command, and gives what it says."""
        done = subprocess.run(
            list(map(str, words)), env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}{self.said()}"
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What the controller knows of a job."""
        text = self("scontrol", "show", "job", number)
        return dict(pair.split("=", 1) for pair in text.split() if "=" in pair)

    def wait(self, condition, seconds: float, what: str) -> None:
        """Until ``condition()``; fails, with the daemons' last words, where that takes too long."""
        ends = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < ends, f"{what}: not within {seconds:.0f} s\n{self.said()}"
            time.sleep(0.5)

    def ended(self, number: str) -> bool:
        return self.job(number)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

    def start(self, node: str) -> None:
        """Starts the daemon of a node."""
        conf = str(self.folder / "slurm.conf")
        self.nodes[node] = _start(self.daemons, self, "slurmd", "-D", "-N", node, "-f", conf)

    def lose(self, node: str) -> None:
        """What a power cut does to a node: its daemon and all that runs there are gone, without a word."""
        self.nodes[node].kill()
        self.nodes[node].wait()
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"SLURMD_NODENAME={node}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                    if Path("/proc", parent, "comm").read_text().startswith("slurmstepd"):
                        os.kill(int(parent), signal.SIGKILL)
                    os.kill(int(entry.name), signal.SIGKILL)

    def said(self) -> str:
        """The last lines of the daemons' logs."""
        return "\n".join(
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-12:])
            for log in sorted(self.folder.glob("*.log"))
        )


def missing() -> str:
    """Why Slurm cannot be started here; "" where it can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
    if os.geteuid():
        return "Slurm's daemons start jobs as their users, so these tests run as root alone"
    if not os.access(HOSTS, os.W_OK):
        return f"{HOSTS} cannot be written, and the nodes' names must be found there"
    return ""


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Slurm]:
    """A cluster in ``folder``, ended with the context."""
    host = socket.gethostname().split(".")[0]
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    port, *ports = _free_ports(3)
    text = CONF.format(host=host, folder=folder, port=port, nodes=NODES, ports=ports)
    (folder / "slurm.conf").write_text(text)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    slurm = Slurm(folder)
    names = {
        "socket": "munge.socket",
        "pid-file": "munged.pid",
        "log-file": "munged.log",
        "seed-file": "munged.seed",
    }
    options = [f"--{option}={folder / name}" for option, name in names.items()]
    with _in_hosts(), contextlib.ExitStack() as daemons:
        _start(
            daemons,
            slurm,
            "munged",
            "--force",
            "--foreground",
            f"--key-file={folder / 'munge.key'}",
            *options,
        )
        slurm.wait((folder / "munge.socket").exists, 20, "munged's socket")
        _start(daemons, slurm, "slurmctld", "-D", "-f", str(folder / "slurm.conf"))
        slurm.daemons = daemons
        for node in NODES:
            slurm.start(node)
        slurm.wait(
            lambda: slurm("sinfo", "-h", "-p", "low", "-t", "idle", "-o", "%D", check=False) == "2",
            60,
            "nodes",
        )
        yield slurm


def _start(daemons: contextlib.ExitStack, slurm: Slurm, *words: str) -> subprocess.Popen:
    log = daemons.enter_context(open(slurm.folder / f"{words[0]}-out.log", "a"))
    process = subprocess.Popen(words, env=slurm.environment, stdout=log, stderr=log, start_new_session=True)
    daemons.callback(_end, process)
    return process


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _in_hosts() -> Iterator[None]:
    """Names the nodes in /etc/hosts, where a job's processes look for one another."""
    lines = [f"127.0.0.1 {node}" for node in NODES]
    with open(HOSTS, "a") as file:
        file.write("".join(f"{line}\n" for line in lines))
    try:
        yield
    finally:
        kept = [line for line in HOSTS.read_text().splitlines() if line not in lines]
        HOSTS.write_text("\n".join(kept) + "\n")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
