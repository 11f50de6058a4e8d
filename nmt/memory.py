"""Running out of memory, told in one line that says what to change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

SIGNS = ("out of memory", "allocate memory", "bad_alloc", "ALLOC_FAILED")
"""What PyTorch's and other libraries' errors for want of memory have in their text, on CPUs and GPUs."""


class MemoryShortage(ValueError):
    """What was asked for does not fit into memory; the line says when that showed, and what to change."""


def is_shortage(error: BaseException) -> bool:
    """Whether an error is one for want of memory."""
    if isinstance(error, RuntimeError):
        return any(sign in str(error) for sign in SIGNS)
    return isinstance(error, MemoryError | MemoryShortage)


@contextlib.contextmanager
def explaining_shortage(when: str, remedy: str) -> Iterator[None]:
    """Say what to change when memory runs out inside; of several around each other the outermost speaks.

    Args:
        when: what was being done: ``out of memory`` comes before it.
        remedy: what to change, with the keys of the command.

    Raises:
        MemoryShortage: it ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError, MemoryShortage) as error:
        if not is_shortage(error):
            raise
        raise MemoryShortage(f"out of memory {when}; {remedy}") from error
