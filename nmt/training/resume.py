"""Where a run goes on: at its newest checkpoint, or where that is damaged at the one before."""

from __future__ import annotations

import logging
from pathlib import Path

from nmt.config import DataError
from nmt.training.run_folder import CheckpointStore
from nmt.training.training_state import Learner

logger = logging.getLogger(__name__)


def restore_newest(learner: Learner, store: CheckpointStore) -> None:
    """Bring a learner to the state of the newest checkpoint that is whole; without any checkpoint it stays as it is.

    Newer ones that are damaged are named in a warning and set aside: training will write those moments again. Links
    and removals that a kill cut off are made up for.

    Raises:
        DataError: there are checkpoints, but none of them can be continued.
    """
    damaged: list[tuple[Path, DataError]] = []
    for folder in store.newest_first():
        try:
            learner.restore(folder)
        except DataError as error:
            damaged.append((folder, error))
            continue
        for path, reason in damaged:
            aside = store.set_aside(path)
            logger.warning(
                "%s; this checkpoint is set aside as %s, training goes on from %s", reason, aside.name, folder.name
            )
        store.settle([name for _, name in learner.progress.ranking])
        return
    if damaged:
        raise DataError(
            f"{damaged[0][1]}; no earlier checkpoint can be continued either: "
            f"choose another run=, or remove {store.folder} to begin anew"
        )
