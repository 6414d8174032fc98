"""One line of the config to a mesh, and what is refused of it."""

import pytest
from short_runs import PROJECT

from vitmed.config import load
from vitmed.errors import InputError
from vitmed.job.config import check
from vitmed.parallel import mesh
from vitmed.parallel.engine import JitEngine, ParallelConfig, engine


def test_what_is_left_goes_to_the_axis_that_asks_for_it():
    """Else a config is of one number of devices."""
    assert mesh.sizes("data=-1,fsdp=2,tensor=2", 8) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert mesh.sizes("fsdp=-1", 8) == {"data": 1, "fsdp": 8, "tensor": 1}
    assert mesh.sizes(" tensor = 2 , data=4", 8) == {"data": 4, "fsdp": 1, "tensor": 2}
    assert mesh.sizes("data=-1", 1) == {"data": 1, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data=3", "does not fit 8 devices; the nearest that does is 'data=8'"),
        ("data=-1,fsdp=3", "the nearest that does is 'data=4,fsdp=2'"),
        ("data=2,fsdp=4,tensor=2", "the nearest that does is 'fsdp=4,tensor=2'"),
        ("fsdp=-1,tensor=16", "the nearest that does is 'tensor=8'"),
        ("data=-1,fsdp=-1", "one axis alone may be -1"),
        ("dada=8", "names the axis 'dada'; did you mean 'data'"),
        ("data=2,data=4", "names 'data' twice"),
        ("data=some", "the size of 'data' is 'some'"),
        ("data=0", "the size of 'data' is '0'"),
        (",", "name the axes"),
    ],
)
def test_a_mesh_that_makes_no_sense_is_refused_with_the_nearest(text, words):
    """Else the fault shows as a stack trace of JAX, after minutes in a queue."""
    with pytest.raises(InputError, match="config.parallel.mesh") as caught:
        mesh.sizes(text, 8)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"mesh": "data=4,fsdp=2"},
            "rules 'replicated' shard nothing over 'fsdp'; set config.parallel.rules to 'fsdp'",
        ),
        ({"mesh": "data=4,tensor=2", "rules": "fsdp"}, "to 'fsdp+tensor'"),
        ({"mesh": "data=8", "rules": "fsdp"}, "has no axis 'fsdp'"),
        (
            {"rules": "fsdp+tensor"},
            "has no axis 'fsdp'; give config.parallel.mesh, such as 'data=-1,fsdp=2,tensor=2'",
        ),
    ],
)
def test_a_mesh_and_rules_that_do_not_go_together(keys, words):
    """Else devices do the same work twice, or a person believes that the state is sharded."""
    with pytest.raises(InputError) as caught:
        engine(ParallelConfig(**keys), 16)
    assert words in str(caught.value)


def test_a_batch_that_the_mesh_cannot_share():
    """Else the compiler says so, in its own words."""
    with pytest.raises(
        InputError, match="batch_size is 6, which 4 groups of devices cannot share evenly; the nearest is 8"
    ):
        engine(ParallelConfig(mesh="data=2,fsdp=2,tensor=2", rules="fsdp+tensor"), 6)
    with pytest.raises(
        InputError, match="batch_size is 40, which 8 devices cannot share evenly in 3 parts .* is 48"
    ):
        engine(ParallelConfig(accumulate=3), 40)


def test_pmap_shares_out_the_batch_alone():
    """Else a mesh is quietly left out of account."""
    for keys in ({"mesh": "fsdp=8"}, {"rules": "fsdp"}):
        with pytest.raises(ValueError, match="engine is 'pmap', which shares out the batch alone"):
            ParallelConfig(engine="pmap", **keys)


def test_a_process_alone_has_all_rows():
    """Else it reads a part of the batch, and trains on that."""
    for line in ("data=8", "fsdp=8", "data=2,fsdp=2,tensor=2"):
        assert JitEngine(sizes=mesh.sizes(line, 8)).shard == (0, 1)


def test_none_is_a_choice_where_it_is_one_of_them(tmp_path):
    """Otherwise --config.parallel.remat=none, a preset's own word, is refused as a value that is missing."""
    values = load(
        f"{PROJECT}/configs/pretrain_mae.py:tiny", {"parallel.remat": "none", "data.path": str(tmp_path)}
    )
    assert check(values).parallel.remat == "none"
