"""At which thresholds a run says yes, where nothing is known of a scan but the scan."""

from vitmed import durable
from vitmed.data.dataset import Dataset
from vitmed.errors import InputError
from vitmed.evaluate import score
from vitmed.evaluate.evaluate import logits_of
from vitmed.infer import Model
from vitmed.progress import Bar

NO_THRESHOLD = (
    "no threshold was chosen on validation, so that 0.5 serves: evaluate the run once where its dataset is"
)


def thresholds(model: Model, step: int, quiet: bool = True) -> dict | None:
    """The thresholds that the run's own validation split gives, as ``score.chosen`` has them.

    Those that an evaluation of the same checkpoint wrote down serve where there are any, so that a run may be used
    far from its data; else they are chosen now. None where neither can be.

    Args:
        step: of the checkpoint.
    """
    for file in sorted(model.run.glob("evaluations/*/metrics.json")):
        found = durable.read_json(file)
        # An evaluation on another dataset chose by that one's validation.
        if "@" not in file.parent.name and found["checkpoint"] == step and found["threshold_from"] == "val":
            return {name: found[name] for name in ("threshold", "threshold_90_specificity")}
    try:
        data = Dataset.open(model.dataset_path)
    except InputError:
        return None
    split = model.config["data"].get("val_split", "val")
    same = data.datasheet["content_hash"] == model.datasheet["content_hash"]
    if not same or not data.has_split(split) or not data.labels(split)[1].any():
        return None
    with Bar("thresholds", data.size(split), "scans", quiet=quiet) as bar:
        val = (logits_of(model, data, split, bar), *data.labels(split))
    made = score.chosen(data.datasheet["task"], list(data.datasheet["classes"]), val)
    known = [x for x in (made["threshold_90_specificity"] or {}).values() if x is not None]
    return made if known else None
