"""Arms that start from a published encoder, where its weights are on disk: a baseline that few studies dare to have.

``config.study.published`` names a run that ``vitmed convert`` made. An arm whose ``init`` is ``published`` has that
run's encoder; what its own ``config.model`` says of pooling, drop path and precision stays, and so does its patch, where
its ``config.init_adapt`` allows another. Without such a run these arms are left out, and the table says so.
"""

import dataclasses
from pathlib import Path

from vitmed.errors import InputError
from vitmed.runs import folder
from vitmed.study.config import Arm, StudyConfig

PUBLISHED = "published"
_OWN = ("pool", "drop_path", "scan", "dtype")  # of config.model: not the encoder's


def placed(checked: StudyConfig) -> tuple[StudyConfig, tuple[str, ...]]:
    """The study with such arms as ordinary ones with an ``init_from``, or without them; and which were left out.

    Raises:
        InputError: ``config.study.published`` is no run, or no arm starts from it.
    """
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
    arms = {name: arm for name, arm in checked.arms.items() if name not in named}
    return dataclasses.replace(checked, study=dataclasses.replace(study, **kept), arms=arms), named


def _started(arm: Arm, run: Path) -> Arm:
    own = arm.config.get("model", {})
    kept = _OWN + ("patch_size",) * ("patch" in arm.config.get("init_adapt", ""))
    model = {**folder.config_of(run).model.to_dict(), **{key: own[key] for key in kept if key in own}}
    return dataclasses.replace(arm, config={**arm.config, "model": model, "init_from": str(run)}, init=None)
