"""SIGTERM and Ctrl-C as a wish to stop, which training grants where nothing is lost."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

from nmt.parallel.ranks import Ranks


class Interrupted(Exception):
    """A stop was wished for during work that may be broken off."""


class StopSignals:
    """Notes SIGTERM and SIGINT while entered, however often they come; puts the former handlers back.

    Attributes:
        requested: one of them came.
    """

    def __init__(self) -> None:
        self.requested = False
        self._breakable = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self._former = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if self._breakable:
            self._breakable = False  # once: a second signal must not disturb what tidies up after the first
            raise Interrupted

    @contextlib.contextmanager
    def breakable(self) -> Iterator[None]:
        """While inside, a signal raises `Interrupted` at once, wherever the program is; also one that came before.

        For long work that changes nothing which is not put back outside of this block.
        """
        self._breakable = True
        try:
            if self.requested:
                raise Interrupted
            yield
        finally:
            self._breakable = False

    def shared(self, ranks: Ranks, work: Callable[[], Any]) -> list[Any]:
        """What a piece of work gives in each process, by rank; a signal to one of them breaks it off for all.

        Args:
            ranks: the processes.
            work: exchanges nothing; gives JSON other than null.

        Raises:
            Interrupted: in every process, if any was asked to stop before its work was done.
        """
        found = None
        with contextlib.suppress(Interrupted), self.breakable():
            found = work()
        shares = ranks.all_gather(found)
        if any(share is None for share in shares):
            raise Interrupted
        return shares
