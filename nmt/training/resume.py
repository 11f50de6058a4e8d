"""Where a run goes on: at its newest checkpoint, or where that is damaged at the one before."""

from __future__ import annotations

import logging
from pathlib import Path

from nmt.checkpoints.checksums import DamagedError
from nmt.checkpoints.store import CheckpointStore
from nmt.parallel.ranks import Ranks
from nmt.training.training_state import Learner

logger = logging.getLogger(__name__)


def restore_newest(learner: Learner, store: CheckpointStore, ranks: Ranks) -> None:
    """Bring a learner to the state of the newest checkpoint that is whole; without any checkpoint it stays as it is.

    Newer ones that are damaged are named in a warning and set aside: training will write those moments again. Links
    and removals that a kill cut off are made up for. Every process must call; the first one writes.

    Raises:
        DamagedError: there are checkpoints, and all of them are damaged.
        DataError: the newest one that is whole has no digests, or is of another training.
    """
    damaged: list[tuple[Path, DamagedError]] = []
    for name in ranks.broadcast([path.name for path in store.newest_first()]):  # as the first process sees the folder
        folder = store.folder / name
        try:
            learner.restore(folder)
        except DamagedError as error:
            damaged.append((folder, error))
            continue
        if ranks.first:
            for path, reason in damaged:
                aside = store.set_aside(path)
                logger.warning(
                    "%s; this checkpoint is set aside as %s, training goes on from %s", reason, aside.name, name
                )
            store.settle([entry for _, entry in learner.progress.ranking])
        return
    if damaged:
        raise DamagedError(
            f"{damaged[0][1]}; no earlier checkpoint can be continued either: "
            f"choose another run=, or remove {store.folder} to begin anew"
        )
