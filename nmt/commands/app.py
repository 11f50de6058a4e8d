"""What all commands share: Hydra without litter, help with meanings, and errors in one line."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import signal
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from importlib import resources
from types import FrameType
from typing import TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, OverrideParseException
from omegaconf import DictConfig

import nmt
from nmt.commands.streams import guard_streams, log_messages
from nmt.config import (
    ConfigError,
    Override,
    command_groups,
    parse_options,
    presets,
    reset_switched,
    suggest,
    to_hydra,
)
from nmt.device import share_cores

T = TypeVar("T")

FLAGS = (
    *("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r"),
    *("--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun", "--info", "-i"),
)
"""What Hydra takes beside ``KEY=VALUE``."""

ONLY_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Errors of the operating system that nothing but writing can have, where they name no file."""

FULL_ERROR = "HYDRA_FULL_ERROR"
"""The environment variable with which users ask for tracebacks."""

HYDRA_OPTIONS = """\
Options of every command: --cfg job (print the configuration and stop), --multirun (sweep over comma-separated values),
--config-dir DIR (more presets), --shell-completion install=bash (for eval), --version, --hydra-help."""


def run_app(command: str, schema: type[T], function: Callable[[T, DictConfig], None]) -> None:
    """Run a console command as a Hydra app.

    Args:
        command: name of the command's file in ``conf/``, without ``.yaml``.
        schema: dataclass that the composed configuration must fit.
        function: called with the typed configuration and the plain one (as composed).
    """
    share_cores()
    guard_streams()
    program = f"nmt-{command}"
    full_error = os.environ.get(FULL_ERROR)
    level = logging.INFO if _rank() == 0 else logging.WARNING  # of several processes the first one tells what goes on
    log_messages(level)
    before = signal.signal(signal.SIGTERM, _terminated(os.getpid()))

    def task(config: DictConfig) -> None:
        try:
            config = reset_switched(config, HydraConfig.get().overrides.task)
            with _variable(FULL_ERROR, full_error):  # as commands that this one starts should find it
                function(parse_options(schema, config), config)
            sys.stdout.flush()  # while a reader that left can still be told from a mistake
        except Exception as error:
            if full_error:
                raise
            raise SystemExit(_report(program, error)) from error

    try:
        if any(a in ("--help", "-h") for a in sys.argv[1:]):
            print(_help(command))
            return
        if "--version" in sys.argv[1:]:
            print(f"{program} {nmt.__version__}")
            return
        # With the variable set, exceptions reach us; Hydra's own report is many lines.
        with _scratch(sys.argv[1:]) as scratch, _variable(FULL_ERROR, "1"):
            sys.argv[1:] = _hydra_arguments(command, schema, sys.argv[1:], scratch)
            hydra.main(version_base="1.3", config_path="pkg://nmt.conf", config_name=command)(task)()
        if _one_of_many():
            from nmt.parallel.ranks import leave

            leave()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        if full_error:
            raise
        raise SystemExit(_report(program, error)) from error
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _variable(name: str, value: str | None) -> Iterator[None]:
    """An environment variable with another value, or with none, for a while."""
    before = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _terminated(owner: int) -> Callable[[int, FrameType | None], None]:
    """What SIGTERM does: half-written files go; in a process that was forked from this one, what it always does."""

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            raise SystemExit(128 + number)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    return stop


@contextlib.contextmanager
def _scratch(arguments: list[str]) -> Iterator[str]:
    """Where Hydra keeps what it writes about a sweep: a folder that goes away; none without a sweep."""
    if not any(a in ("--multirun", "-m") for a in arguments):
        yield "."
        return
    with tempfile.TemporaryDirectory(prefix="nmt-", ignore_cleanup_errors=True) as folder:
        yield folder


def _report(program: str, error: Exception) -> int:
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nothing more to flush
        return 1
    if _is_first_to_fail():
        print(f"{program}: error: {_message(error)}", file=sys.stderr)
    return 1


def _rank() -> int:
    """Number of this process where ``torchrun`` started several."""
    return int(os.environ.get("RANK", "0"))


def _one_of_many() -> bool:
    """Whether ``torchrun`` started several processes (importing torch for a yes only)."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _is_first_to_fail() -> bool:
    """Whether this process says what went wrong: of several only one does."""
    if not _one_of_many():
        return True
    from nmt.parallel.ranks import claim_failure

    return claim_failure()


def _message(error: Exception) -> str:
    """One line for an error."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OverrideParseException):
        return _unreadable(str(error.override))
    if isinstance(error, ConfigCompositionException) and (found := re.search(r"Ambiguous value .*? '(.+)' 1\. ", text)):
        return _unreadable(found[1])
    if isinstance(error, OSError) and error.strerror:
        what = "writing" if error.errno in ONLY_WRITING else None
        named = error.filename if error.filename is not None else what
        return error.strerror if named is None else f"{named}: {error.strerror}"
    return text if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {text}"


def _unreadable(text: str) -> str:
    """What to do about an argument that is not in Hydra's grammar."""
    override = Override.parse(text)
    if override is None:
        return f"{text}: not an option; options are given as KEY=VALUE"
    key, value = override.key, override.value
    quoted = value.replace("'", "'\\''").replace('"', '\\"')
    hint = f"""{key}={value}: not a plain value; as a text it needs quotes of its own: '{key}="{quoted}"'"""
    if "," in value and not value.startswith(("[", "{", "'", '"')):
        hint += f", as a list brackets: {key}=[{value}], for a sweep --multirun"
    return hint


def _hydra_arguments(command: str, schema: type, arguments: list[str], scratch: str) -> list[str]:
    """The command line with Hydra kept from changing folder, writing files or configuring logging.

    Raises:
        ConfigError: an option or a preset that does not exist, or what is no line of text.
    """
    for text in arguments:
        kinds = set(map(unicodedata.category, text))
        if kinds & {"Cs", "Cc"}:
            raise ConfigError(f"{text}: {'not UTF-8' if 'Cs' in kinds else 'holds a control character'}")
    unknown = next((a for a in arguments if a.startswith("-") and a.partition("=")[0] not in FLAGS), None)
    if unknown is not None:
        raise ConfigError(f"{unknown}: no such option; options are given as KEY=VALUE{suggest(unknown, FLAGS)}")
    if any(a in ("--shell-completion", "-sc", "--hydra-help") for a in arguments):
        return arguments
    groups = command_groups(command)
    own_presets = any(a.startswith(("--config-dir", "-cd", "--config-path", "-cp")) for a in arguments)
    quiet = [
        "hydra.run.dir=.",
        "hydra.output_subdir=null",
        "hydra/job_logging=none",
        "hydra/hydra_logging=none",
        f"hydra.sweep.dir={scratch}",
        "hydra.sweep.subdir=.",
    ]
    given = {o.key for o in map(Override.parse, arguments) if o}
    quiet = [q for q in quiet if q.partition("=")[0] not in given]
    sweep = any(a in ("--multirun", "-m") for a in arguments)
    rewritten = [to_hydra(a, schema, groups=groups, own_presets=own_presets, sweep=sweep) for a in arguments]
    # Hydra's parser wants all overrides in one piece, and one option takes what follows it for its value.
    return sorted([*quiet, *rewritten], key=lambda a: Override.parse(a) is None)


def _help(command: str) -> str:
    """Every key with its default and meaning: the commented YAML of the command."""
    folder = resources.files("nmt.conf")
    lines = [f"Usage: nmt-{command} key=value ...", ""]
    lines.append((folder / f"{command}.yaml").read_text(encoding="utf-8").rstrip())
    for group in command_groups(command):
        lines.append(f"\n# {group}=NAME, one of: {', '.join(presets(group))}")
    return "\n".join([*lines, "", HYDRA_OPTIONS])
