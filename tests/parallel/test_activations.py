"""Under fsdp parameters travel and examples stay: what is sent does not grow with the batch."""

import jax
import pytest
from short_runs import PROJECT

from vitmed.config import load
from vitmed.job.config import check
from vitmed.models.vit import VARIANTS, Variant
from vitmed.parallel import hlo
from vitmed.scale.drawing import draw


@pytest.mark.parametrize(
    ("spec", "mesh"),
    [
        ("pretrain_mae.py", "fsdp=8"),
        ("pretrain_mae.py", "data=2,fsdp=4"),
        ("pretrain_self_distil.py", "fsdp=8"),
        ("pretrain_ijepa.py", "fsdp=8"),
        ("finetune_classify.py:scratch", "fsdp=8"),
        ("finetune_classify.py:resnet10", "fsdp=8"),
    ],
)
def test_what_fsdp_sends_is_parameters(monkeypatch, spec, mesh):
    """Otherwise XLA splits the features of all examples, as the parameters are, and sends these: nine times as much."""
    monkeypatch.setitem(VARIANTS, "nano", Variant(64, 2, 2, 128))
    sent = {}
    for batch in (16, 128):
        values = load(str(PROJECT / "configs" / spec))
        values.data.size = (32, 32)
        values.train.batch_size = batch
        values.parallel.update(dict(rules="fsdp", mesh=mesh))
        if "patch_size" in values.model:
            values.model.update(dict(scan=True, patch_size=(8, 8)))
        else:
            values.model.width = 8
        drawing = draw(check(values), jax.devices())
        program = drawing.job.update.lower(drawing.state, drawing.batch).compile().as_text()
        sent[batch] = hlo.read(program, 8).sent.total()
    parameters = sum(x.size * 4 for x in jax.tree.leaves(drawing.state["params"]))
    assert sent[128] < 1.1 * sent[16]
    assert sent[128] < 6 * parameters, "more than there and back for each product of them"
