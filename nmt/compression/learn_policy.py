"""Learn which layers share their attention: what ``nmt-similarity`` does."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from nmt.checkpoints.checkpoint import load_model
from nmt.compression.attention_similarity import (
    CROSS,
    DECODER_SELF,
    ENCODER_SELF,
    Similarity,
    attention_similarity,
)
from nmt.compression.retrain import train_command
from nmt.compression.sharing_policy import greedy_policy
from nmt.compression.similarity_options import SimilarityOptions
from nmt.config import ConfigError
from nmt.data.batch import Batch, make_batch
from nmt.data.corpus import Corpus, ParallelSplit
from nmt.data.plan import plan_batches
from nmt.device import torch_device
from nmt.files import write_files
from nmt.generation.options import GenerationBatchOptions
from nmt.memory import explaining_shortage
from nmt.provenance import provenance
from nmt.registry import find

RESULTS_FILE, PLOT_FILE, POLICY_FILE = "similarity.json", "similarity.png", "policy.yaml"
TITLES = {
    ENCODER_SELF: "self-attention of the encoder",
    DECODER_SELF: "self-attention of the decoder",
    CROSS: "cross-attention",
}


def learn_policy(options: SimilarityOptions) -> str:
    """Measure, choose, and write ``similarity.json``, ``similarity.png`` and ``policy.yaml``.

    Returns:
        The report: matrices, policies and the command that trains with them.

    Raises:
        ConfigError: an option is wrong, or no attention of the model has weights.
        DataError: the checkpoint or the corpus is damaged.
    """
    out = Path(options.out)
    if out.exists() and not (out / RESULTS_FILE).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"out={out} exists and holds no results of nmt-similarity; choose another folder")
    thetas = {ENCODER_SELF: options.theta_encoder, DECODER_SELF: options.theta_self, CROSS: options.theta_cross}
    device = torch_device(options.device)
    loaded = load_model(options.checkpoint, device, options.plugins)
    corpus = Corpus.open(options.corpus)
    if corpus.vocabularies.digest != loaded.vocabularies.digest:
        raise ConfigError(
            f"corpus={options.corpus} was prepared with another vocabulary than checkpoint={options.checkpoint}"
        )
    split = corpus.split(options.split)
    lines = _lines(split, options.max_sentences, loaded.model.max_target_length)
    with explaining_shortage("while attention is compared", "lower batch.max_tokens or batch.max_sentences"):
        found = attention_similarity(loaded.model, _batches(split, lines, options.batch, device))
    if not found:
        raise ConfigError(
            f"checkpoint={options.checkpoint}: there is nothing to compare: no attention of it has weights "
            f"({', '.join(f'{key}.name={_name(loaded.config, key)}' for key in TITLES)})"
        )
    policies = {key: greedy_policy(item.matrix, thetas[key]) for key, item in found.items()}
    nodes = _nodes(loaded.config, policies)
    command = train_command(
        loaded.config,
        {f"{slot}.{key}": value for slot, node in nodes.items() for key, value in node.items()},
        corpus=loaded.config.get("corpus") or options.corpus,
        run=options.run or f"{options.checkpoint.rstrip('/')}-shared",
        init_from=options.checkpoint,
    )
    facts = {
        **provenance(),
        "checkpoint": str(loaded.path),
        "corpus": options.corpus,
        "split": options.split,
        "sentences": len(lines),
        "train_command": command,
    }
    _write(out, found, policies, thetas, nodes, facts)
    return "\n".join(_report(found, policies, thetas, loaded.config, nodes, command))


def _name(config: DictConfig, key: str) -> Any:
    """Of the component in a slot."""
    return OmegaConf.select(config, f"{key}.name")


def _lines(split: ParallelSplit, most: int | None, limit: int | None) -> list[int]:
    """The first so many lines of a split that the model has positions for."""
    longest = torch.maximum(torch.from_numpy(split.source_lengths), torch.from_numpy(split.target_lengths)) + 1
    lines = [i for i, length in enumerate(longest.tolist()) if limit is None or length <= limit][:most]
    if not lines:
        raise ConfigError(f"split={split.name}: no sentence that the model has positions for")
    return lines


def _batches(
    split: ParallelSplit, lines: list[int], options: GenerationBatchOptions, device: torch.device
) -> Iterator[Batch]:
    plan = plan_batches(
        split.source_lengths[lines],
        split.target_lengths[lines],
        max_tokens=options.max_tokens,
        max_sentences=options.max_sentences,
    )
    return (make_batch(split, [lines[i] for i in batch]).to(device) for batch in plan)


def _nodes(config: DictConfig, policies: Mapping[str, list[int]]) -> dict[str, dict[str, Any]]:
    """The nodes of the slots that share after this, or did so before."""
    nodes = {}
    for key, policy in policies.items():
        old = OmegaConf.to_container(OmegaConf.select(config, key))
        assert isinstance(old, dict)
        if max(policy) == 1 and old["name"] != "shared":
            continue
        known = {item.name for item in dataclasses.fields(find(key.rpartition(".")[2], "shared", key).options)}
        kept = {name: value for name, value in old.items() if name in known}
        nodes[key] = {"name": "shared", **kept, "policy": policy}
    return nodes


# --- results ----------------------------------------------------------------------------------------------------------


def _report(
    found: Mapping[str, Similarity],
    policies: Mapping[str, list[int]],
    thetas: Mapping[str, float],
    config: DictConfig,
    nodes: Mapping[str, Any],
    command: str,
) -> Iterator[str]:
    for key, title in TITLES.items():
        if key not in found:
            yield f"{key}.name={_name(config, key)} has no attention weights to compare\n"
            continue
        matrix = found[key].matrix.tolist()
        yield f"{key}: {title}, mean similarity over {found[key].rows} distributions"
        yield "layer " + "".join(f"{j:>7}" for j in range(len(matrix)))
        for i, row in enumerate(matrix):
            yield f"{i:>5} " + "".join(f"{value:>7.3f}" for value in row)
        yield f"policy above {thetas[key]:g}: {policies[key]}\n"
    if nodes:
        yield f"To train on with this policy:\n\n{command}"
    else:
        yield "No layers are alike enough to share."


def _write(
    out: Path,
    found: Mapping[str, Similarity],
    policies: Mapping[str, list[int]],
    thetas: Mapping[str, float],
    nodes: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> None:
    slots = {
        key: {"similarity": item.matrix.tolist(), "rows": item.rows, "theta": thetas[key], "policy": policies[key]}
        for key, item in found.items()
    }
    model: dict[str, Any] = {}
    for key, node in nodes.items():
        _, stack, slot = key.split(".")
        model.setdefault(stack, {})[slot] = node
    policy = "# @package _global_\n# Which layers share their attention, learned by nmt-similarity from "
    policy += f"{facts['checkpoint']}.\n" + OmegaConf.to_yaml({"model": model})
    files: dict[str, Callable[[Path], Any]] = {
        RESULTS_FILE: lambda path: path.write_text(json.dumps({"slots": slots, **facts}, indent=1) + "\n", "utf-8"),
        POLICY_FILE: lambda path: path.write_text(policy, "utf-8"),
        PLOT_FILE: lambda path: _plot(found, path),
    }
    try:
        write_files(out, files, files)
    except OSError as error:
        raise ConfigError(f"out={out}: cannot be written ({error.strerror or error})") from error


def _plot(found: Mapping[str, Similarity], path: Path) -> None:
    """A heat map for every slot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(found) + 1, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    maps = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (key, item) in zip(maps, found.items()):
        image = axes.imshow(item.matrix.numpy(), vmin=0, vmax=1, origin="lower")
        axes.set_title(TITLES[key], fontsize="medium")
        axes.set_xlabel("layer")
        axes.set_ylabel("layer")
        axes.set_xticks(range(len(item.matrix)))
        axes.set_yticks(range(len(item.matrix)))
    figure.colorbar(image, ax=list(maps), label="Jensen-Shannon similarity")
    figure.savefig(path, format="png", bbox_inches="tight")
