"""Arms that start from a published encoder, where its weights are on disk: a baseline that few studies dare to have.

``config.study.published`` names a run that ``vitmed convert`` made. An arm whose ``init`` is ``published`` has that
run's encoder; what its own ``config.model`` says of anything else stays, and so does its patch, where its
``config.init_adapt`` allows another. Without such a run these arms are left out, and the table says so.
"""

import dataclasses
from pathlib import Path

from vitmed.errors import InputError
from vitmed.runs import folder
from vitmed.study.config import Arm, StudyConfig, StudySection

PUBLISHED = "published"
# Of config.model: what is not the encoder's, and how its places are read where the scans are not those it was made for.
_OWN = ("pool", "drop_path", "scan", "dtype", "width", "decoder_dim", "decoder_depth", "decoder_heads")
_PLACES = ("learned_slices", "position_scale")


def placed(checked: StudyConfig) -> tuple[StudyConfig, tuple[str, ...]]:
    """The study with such arms as ordinary ones with an ``init_from``, or without them; and which were left out.

    Raises:
        InputError: ``config.study.published`` is no run, no arm starts from it, or without it nothing is left of what the
            config names; a pretraining of the same name.
    """
    if PUBLISHED in checked.pretrains:
        raise InputError(
            f"config.pretrains.{PUBLISHED}: arms with this init start from the run of config.study.published; give the "
            "pretraining another name"
        )
    study = checked.study
    named = tuple(name for name, arm in checked.arms.items() if arm.init == PUBLISHED)
    if study.published and not named:
        raise InputError(
            f"config.study.published is {study.published!r}, but no arm starts from it; give one init='{PUBLISHED}'"
        )
    if study.published:
        run = Path(study.published).resolve()
        arms = {name: _started(arm, run) if name in named else arm for name, arm in checked.arms.items()}
        return dataclasses.replace(checked, arms=arms), ()
    kept = {key: tuple(n for n in getattr(study, key) if n not in named) for key in ("arms", "baselines")}
    _check_left(study, named, kept)
    arms = {name: arm for name, arm in checked.arms.items() if name not in named}
    return dataclasses.replace(checked, study=dataclasses.replace(study, **kept), arms=arms), named


def _check_left(study: StudySection, named: tuple[str, ...], kept: dict[str, tuple[str, ...]]) -> None:
    sides = [side.partition("@")[0] for pair in study.compare for side in pair]
    asked = {
        "arms": "" if kept["arms"] else ", ".join(study.arms),
        "baselines": "" if kept["baselines"] else ", ".join(study.baselines),
        "compare": next((arm for arm in sides if arm in named), ""),
        "reference": study.reference if study.reference in named else "",
    }
    for key, arm in asked.items():
        if arm:
            raise InputError(
                f"config.study.{key} asks for {arm}, which start from a published encoder; set config.study.published to a "
                "run that `vitmed convert` made"
            )


def _started(arm: Arm, run: Path) -> Arm:
    own, adapted = arm.config.get("model", {}), arm.config.get("init_adapt", "")
    other = any(word in adapted for word in ("patch", "inflate"))
    kept = _OWN + (_PLACES if adapted else ()) + ("patch_size",) * other
    model = {**folder.config_of(run).model.to_dict(), **{key: own[key] for key in kept if key in own}}
    return dataclasses.replace(arm, config={**arm.config, "model": model, "init_from": str(run)}, init=None)
