"""The checkpoints of a run: which stay, and the links ``last`` and ``best``."""

from __future__ import annotations

import filecmp
import itertools
import logging
from pathlib import Path

from nmt.checkpoints.checkpoint import MODEL_FILE, STATE_FACTS, STATE_TENSORS, Checkpoint, CheckpointFiles
from nmt.config import DataError
from nmt.files import remove_folder, sync
from nmt.leftovers import is_leftover, scratch_name

logger = logging.getLogger(__name__)

LINKS = ("last", "best")


def _holds_all(folder: Path, other: Path) -> bool:
    """Whether every file of another folder is in this one, byte for byte."""
    files = [path for path in other.rglob("*") if not path.is_dir()]
    return all(
        (folder / p.relative_to(other)).is_file() and filecmp.cmp(p, folder / p.relative_to(other), shallow=False)
        for p in files
    )


class CheckpointStore:
    """Numbered checkpoints of a run, with links ``last`` and ``best``.

    Args:
        folder: ``run/checkpoints``.
        keep_last: newest checkpoints kept.
        keep_best: best checkpoints kept.
    """

    def __init__(self, folder: Path, *, keep_last: int, keep_best: int) -> None:
        self.folder = folder
        self.keep_last = keep_last
        self.keep_best = keep_best

    def numbered(self) -> list[Path]:
        """All kept checkpoints, oldest first."""
        return sorted(p for p in self.folder.glob("update-*") if (p / MODEL_FILE).is_file())

    def newest_first(self) -> list[Path]:
        """All numbered folders, damaged or not."""
        return sorted((p for p in self.folder.glob("update-*") if p.is_dir()), reverse=True)

    @property
    def begun(self) -> bool:
        """Whether the run has come to a first checkpoint, whatever has become of it."""
        return self.folder.is_dir() and not all(map(is_leftover, self.folder.iterdir()))

    def restore_links(self) -> None:
        """Make links again of the folders that a copy of the run has in their places.

        One that equals a checkpoint goes. One that has no equal becomes the checkpoint that it was a copy of, or where
        there is another one of that name, stays under a name of its own.
        """
        for name in filter(self._is_copy, LINKS):
            copied = self.folder / name
            others = sorted(p for pattern in ("update-*", "average-*") for p in self.folder.glob(pattern) if p.is_dir())
            twin = next((other for other in others if _holds_all(other, copied)), None)
            if twin is None:
                twin = self._named(copied)
                copied.rename(twin)
                logger.warning(
                    "%s: a folder in place of a link, equal to no checkpoint; it is %s now", copied, twin.name
                )
            else:
                remove_folder(copied)
            self.link(name, twin.name)

    def _is_copy(self, name: str) -> bool:
        path = self.folder / name
        return path.is_dir() and not path.is_symlink()

    def _named(self, copied: Path) -> Path:
        """A free place for a copy of a checkpoint: its own, or one that nothing takes for a moment of the training."""
        try:
            node = Checkpoint(copied).config.checkpoint
            update, kind = node.get("update"), "average-" if "average_of" in node else ""
        except DataError:
            update, kind = None, ""
        known = isinstance(update, int) and 0 <= update < 10**12
        own = self.folder / f"{kind}{self.name(update)}" if known else copied
        free = (self.folder / f"copied-{copied.name}-{number}" for number in itertools.count(1))
        return next(path for path in itertools.chain([own], free) if not path.exists())

    @staticmethod
    def name(update: int) -> str:
        """Folder of the checkpoint after an update."""
        return f"update-{update:08d}"

    def save(self, update: int, files: CheckpointFiles, ranking: list[str]) -> None:
        """Write a checkpoint, move the links and remove what is not kept any more.

        Args:
            update: number of updates done.
            files: what it is made of.
            ranking: names of the validated checkpoints, best first.

        Raises:
            OSError: it cannot be written; the checkpoints before it are as they were.
        """
        self.save_aside(self.name(update), files)
        self.settle(ranking)

    def settle(self, ranking: list[str]) -> None:
        """Move the links and remove what is not kept any more, as after the newest checkpoint was written.

        Args:
            ranking: names of the validated checkpoints, best first.
        """
        numbered = self.numbered()
        self.link("last", numbered[-1].name)
        best = next((name for name in ranking if (self.folder / name / MODEL_FILE).is_file()), None)
        if best is not None:
            self.link("best", best)
        else:
            (self.folder / "best").unlink(missing_ok=True)
        kept = {p.name for p in numbered[-self.keep_last :]} | set(ranking[: self.keep_best])
        for path in numbered:
            if path.name not in kept:
                remove_folder(path)
            elif path not in numbered[-2:]:  # the one before the last serves should the last be damaged
                for name in (STATE_TENSORS, STATE_FACTS):
                    (path / name).unlink(missing_ok=True)

    def save_aside(self, name: str, files: CheckpointFiles) -> None:
        """Write a checkpoint that is no moment of the training, such as an average.

        Raises:
            OSError: it cannot be written.
        """
        try:
            files.write(self.folder / name, overwrite=True)
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot be written ({error.strerror or error}); what was saved before is whole, and the same command "
                "goes on from there",
                str(self.folder / name),
            ) from error

    def set_aside(self, path: Path) -> Path:
        """Rename a damaged checkpoint, so that nothing takes it for one any more; its new place."""
        aside = path.with_name(f"damaged-{path.name}")
        if aside.exists():
            remove_folder(aside)
        path.rename(aside)
        sync(self.folder)
        return aside

    def link(self, name: str, target: str) -> None:
        """Make ``name`` point to a checkpoint, in one step."""
        temporary = scratch_name(self.folder / name)
        temporary.symlink_to(target)
        temporary.replace(self.folder / name)
        sync(self.folder)
