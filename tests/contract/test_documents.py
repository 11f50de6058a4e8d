"""Documents say what is so: their commands, keys, paths and Python code exist and work."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Callable
from keyword import iskeyword
from pathlib import Path
from typing import Any

import pytest

from nmt.config import compose, parse_options

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
)


def code_lines(document: str, until: str | None = None) -> list[str]:
    """Lines of the fenced blocks of a document (before a heading), continued lines joined."""
    text = (ROOT / document).read_text(encoding="utf-8")
    text = text if until is None else text[: text.index(f"\n{until}\n")]
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def commands_in(document: str, until: str | None = None) -> list[list[str]]:
    """The ``nmt-...`` command lines of a document, split into words."""
    lines = [line for line in code_lines(document, until) if "nmt-" in line]
    split = [shlex.split(line.split(" | ")[-1], comments=True) for line in lines]
    return [words for words in split if words and words[0].startswith("nmt-")]


COMMAND_LINES = [
    pytest.param(words, id=f"{document}: {' '.join(words)}")
    for document in DOCUMENTS
    for words in commands_in(document)
]


def test_readme_shows_every_command() -> None:
    shown = {words[0] for words in commands_in("README.md")}
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    commands = ast.literal_eval(re.search(r"^COMMANDS = (\(.*?\))$", text, flags=re.DOTALL | re.MULTILINE)[1])  # type: ignore[index]
    assert shown == {f"nmt-{name}" for name in commands}


def test_commands_of_the_readme_work_in_order() -> None:
    """A run, checkpoint, corpus or file that a line reads was made by a line before, or is said to be the user's."""
    made = {"raw/train", "raw/val", "raw/test", "fairseq/checkpoint_best.pt"}
    for words in commands_in("README.md", until="## Methods"):
        given = dict(word.partition("=")[::2] for word in words[1:] if "=" in word)
        for key in ("checkpoint", "corpus", "input", "reference", "hypothesis", "train", "valid", "test", "path"):
            for name in given.get(key, "-").strip("[]").split(","):
                known = name in made or any(name == f"{prefix}.{end}" for prefix in made for end in ("en", "de"))
                assert known or name == "-", f"{' '.join(words)}: nothing before makes {name}"
        made |= {given[key] for key in ("run", "out", "output") if key in given}


@pytest.mark.parametrize("words", COMMAND_LINES)
def test_documented_command_is_accepted(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key of a documented command exists and takes the value that is shown."""
    program, *overrides = words
    name = program.removeprefix("nmt-")
    if "--help" in overrides:
        overrides = []
    schema: list[Any] = []
    module = importlib.import_module(f"nmt.commands.{name}{'_' * iskeyword(name)}")
    monkeypatch.setattr(module, "run_app", lambda command, options, function: schema.append((command, options)))
    module.main()
    assert schema[0][0] == name
    parse_options(schema[0][1], compose(name, overrides))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documented_make_targets_exist(document: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    quoted = re.findall(r"`make ([a-z -]+)`", (ROOT / document).read_text(encoding="utf-8"))
    quoted += [line.removeprefix("make ") for line in code_lines(document) if line.startswith("make ")]
    named = [target for words in quoted for target in words.split()]
    assert [name for name in named if not re.search(rf"^{name}:", makefile, flags=re.MULTILINE)] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documented_paths_exist(document: str) -> None:
    """Links, and paths in backquotes that start with a folder of the repository."""
    path = ROOT / document
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = [target for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in target]
    missing = [target for target in links if not (path.parent / target).exists()]
    folders = "nmt|modules|criterions|conf|scripts|tests|docs"
    quoted = re.findall(rf"`((?:{folders})/[\w./-]*)`", text)
    missing += [name for name in quoted if not (ROOT / name).exists()]
    assert not missing


def test_python_of_the_readme_runs(train: Callable[..., Any], tmp_path: Path) -> None:
    train(f"run={tmp_path}/run", "train.max_updates=1")
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert len(blocks) == 1
    tree = ast.parse(blocks[0].replace("runs/small", f"{tmp_path}/run"))
    values: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Expr):
            result = eval(compile(ast.Expression(statement.value), "README.md", "eval"), values)
            assert len(result) == 1  # one answer for one sentence
        else:
            exec(compile(ast.Module([statement], []), "README.md", "exec"), values)


def test_component_of_the_guide_is_the_plugin() -> None:
    """The worked example in the text is the one that is installed by the tests, line for line."""
    guide = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    example = re.search(r"^```python\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)
    assert example is not None
    plugin = (ROOT / "tests/plugin/nmt_squared_relu/feed_forward.py").read_text(encoding="utf-8")
    assert example[1] == plugin
