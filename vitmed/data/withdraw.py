"""A patient leaves a dataset; everybody else stays where they are."""

import json
from pathlib import Path

from vitmed.data import as_before, datasheet, living, pseudonyms
from vitmed.data.annotations import Annotations
from vitmed.data.assembly import assemble
from vitmed.data.dataset import Dataset
from vitmed.data.replacing import partial_of
from vitmed.errors import InputError


def withdraw(patient: str, path: str | Path, key: str | Path | None = None, progress: bool = True) -> dict:
    """Takes all scans of a patient out of the dataset in ``path``, which is replaced whole or not at all.

    Args:
        patient: the id that was ingested, or its pseudonym.
        key: the file of the key of pseudonyms; None for ``pseudonyms.default_path()``.

    Returns:
        ``dataset``, ``patient`` (the pseudonym), ``withdrawn`` (how many scans), ``examples`` and ``patients`` as
        they are now, and ``content_hashes`` of every state that the dataset was in before.

    Raises:
        InputError: no such dataset or patient, another key, or nobody else in the set.
        MachineError: the disk is full or refuses; the dataset is as it was.
    """
    path = Path(path)
    old = living.open_for_change(path)
    scans = living.kept(old, progress)
    entries = living.entries(old, scans)
    known = {e.patient for e in entries} - {""}
    if not known:
        raise InputError(f"{path} knows no patients; ingest it again without the scans that must leave")
    name = patient if patient in known else _pseudonym(patient, old, key)
    staying = [e for e in entries if e.patient != name]
    if len(staying) == len(entries):
        raise InputError(f"{path} holds no scan of that patient; give the id as it was when it was ingested")
    if not staying:
        raise InputError(f"{path} holds scans of that patient alone; remove the folder")
    gone = [e.id for e in entries if e.patient == name]
    sheet = old.datasheet
    rule, seed, dedupe, too_few = as_before.rule_of(old)
    history = living.history(old)
    hashes = [state["content_hash"] for state in history]
    history[-1] = {**history[-1], "withdrawn": living.mark_of(name)}
    with partial_of(path, replace=True) as partial:
        new = assemble(
            partial,
            staying,
            living.annotations(old, Annotations(), staying),
            name=sheet["name"],
            plan=as_before.plan_of(old),
            reading=as_before.reading_of(old),
            rule=rule,
            seed=seed,
            dedupe=dedupe,
            too_few=too_few,
            refused=living.apart_from(living.refused(old), gone),
            notes=[],
            simulated=sheet["simulated"],
            key=living.key_of(old),
            series=living.series(old, staying),
            history=history,
            progress=progress,
            chunk=as_before.chunk_of(old),
        )
        (partial / datasheet.FILE).write_text(json.dumps(new, indent=2) + "\n")
    return {
        "dataset": str(path),
        "patient": name,
        "withdrawn": len(gone),
        "examples": new["examples"],
        "patients": new["patients"],
        "content_hashes": hashes,
    }


def _pseudonym(patient: str, dataset: Dataset, path: str | Path | None) -> str:
    made_with = living.key_of(dataset)
    if made_with is None:
        return patient
    key = pseudonyms.open_key(path, make=False)
    pseudonyms.same_key(key, made_with)
    return key.hide("patient", patient)
