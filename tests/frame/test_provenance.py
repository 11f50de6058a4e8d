"""Where figures come from, as a person would say it."""

from __future__ import annotations

import pytest

from nmt.provenance import provenance, typed_command


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        (["/x/bin/python", "/x/bin/nmt-bench", "out=a/nmt-b"], ["nmt-bench", "out=a/nmt-b"]),
        (["/x/bin/python", "-m", "nmt.commands.import_", "to=b"], ["nmt-import", "to=b"]),
        (["/x/bin/python3", "scripts/bench_x.py", "out=a"], ["python", "scripts/bench_x.py", "out=a"]),
        (["/x/bin/python", "-c", "pass"], ["python", "-c", "pass"]),
    ],
)
def test_command_as_typed(words: list[str], typed: list[str]) -> None:
    assert typed_command(words) == typed


def test_no_folder_of_the_interpreter_in_it() -> None:
    assert "/bin/" not in " ".join(provenance()["command"][:1])
