"""What the environment of a launcher says of this process."""

import pytest

from vitmed.errors import InputError
from vitmed.parallel.cluster import Place, first_host, place

SLURM = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "70",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}


def test_a_process_is_alone_unless_a_launcher_says_otherwise():
    """Else a shell of salloc, or a batch script before its srun, waits for processes that nobody starts."""
    batch = {name: SLURM[name] for name in ("SLURM_PROCID", "SLURM_JOB_ID", "SLURM_STEP_NODELIST")}
    for environment in (
        {},
        {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"},
        batch,
        {"VITMED_PROCESSES": "1", "VITMED_PROCESS": "0"},
    ):
        assert place(environment) is None


def test_the_launchers_own_variables_come_first():
    """Else two processes that someone starts within a step of Slurm are taken for the step's tasks."""
    own = {"VITMED_PROCESSES": "2", "VITMED_PROCESS": "1", "JAX_COORDINATOR_ADDRESS": "[::1]:99"}
    assert place({**SLURM, **own}) == Place(1, 2, ("::1", 99))


def test_a_step_of_slurm_meets_at_its_first_node():
    assert place(SLURM) == Place(3, 4, ("gpu003", 20000 + 70 * 64 + 2))
    for nodes, host in {
        "a": "a",
        "n[1-3,7]": "n1",
        "n[07,9],m": "n07",
        "gpu[12-13]-ib,x": "gpu12-ib",
        "a,b[1]": "a",
    }.items():
        assert first_host(nodes) == host
    with pytest.raises(InputError, match="SLURM_STEP_NODELIST is ''"):
        first_host("")


def test_gpus_of_a_task_with_and_without_gpus_per_task():
    """Without, Slurm shows each task all GPUs of the node, and each must take its own; with it, it sees its own alone."""
    assert place(SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}).devices == (2, 3)
    assert place(SLURM | {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_PER_TASK": "2"}).devices is None
    assert place(SLURM | {"CUDA_VISIBLE_DEVICES": "0"}).devices is None


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"VITMED_PROCESSES": "two"}, "VITMED_PROCESSES is 'two'"),
        ({"VITMED_PROCESSES": "2"}, "VITMED_PROCESS is ''"),
        ({"VITMED_PROCESSES": "2", "VITMED_PROCESS": "2"}, "number them from 0 to 1"),
        ({"VITMED_PROCESSES": "2", "VITMED_PROCESS": "0"}, "JAX_COORDINATOR_ADDRESS is ''"),
    ],
)
def test_variables_that_make_no_sense(variables, words):
    with pytest.raises(InputError) as caught:
        place(variables)
    assert words in str(caught.value)
