"""Forced scoring: how probable a model finds given translations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nmt.config import DataError
from nmt.data.batch import pad_rows
from nmt.generation.ensemble import as_list, mean_of_probabilities, model_name, smallest
from nmt.generation.hypothesis import EMPTY, Hypothesis, make_hypothesis
from nmt.generation.interface import NotNumbers, ScoringModel
from nmt.generation.options import GenerationBatchOptions, SearchOptions
from nmt.generation.translate import cut, length_batches
from nmt.text.vocabulary import BOS, EOS, PAD

CHUNK = 512
"""Positions whose distributions are held at once (64 MiB with a vocabulary of 32,000)."""


def score_ids(
    models: ScoringModel | Sequence[ScoringModel],
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    options: SearchOptions | None = None,
    *,
    batch: GenerationBatchOptions | None = None,
    device: torch.device | str = "cpu",
    keys: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
    names: Sequence[str] = (),
) -> list[Hypothesis]:
    """Log-probabilities of given targets, all positions of a batch at once.

    The score of what ``translate_ids`` returned is the score that it returned, to float tolerance (unless
    ``forced_length`` kept EOS away). Two empty sides score 0, as an empty line's translation does. What a search would
    not allow has its score too: an empty target that of EOS at once.

    Args:
        models: one model, or several that form an ensemble; in evaluation mode, on ``device``.
        sources: ids of each source, without BOS and EOS.
        targets: ids of each target, without BOS and EOS.
        options: ``length_penalty``, ``length_norm`` and ``unk_penalty`` make the scores; the others are not read.
        batch: how to batch; ``max_tokens`` counts the longer side here.
        device: where the models are.
        keys: place of each source in the whole input, from 0, for messages.
        progress: called with the number of pairs that have been scored, batch by batch.
        names: of the models, for messages.

    Raises:
        DataError: a target is longer than the model allows, or a model gives nan.
    """
    options = options or SearchOptions()
    members, keys = as_list(models), range(len(sources)) if keys is None else keys
    most_source = smallest(m.max_source_length for m in members)
    most_target = smallest(m.max_target_length for m in members)
    sources = cut(sources, most_source, keys)
    for ids, key in zip(targets, keys):
        if most_target is not None and len(ids) >= most_target:
            raise DataError(f"the target of line {key + 1} has {len(ids)} tokens; the model allows {most_target - 1}")
    results = [EMPTY] * len(sources)
    todo = [i for i, pair in enumerate(zip(sources, targets)) if any(map(len, pair))]
    if progress and len(todo) < len(sources):
        progress(len(sources) - len(todo))
    lengths = [max(len(sources[i]), len(targets[i])) for i in todo]
    for places in length_batches(todo, lengths, batch or GenerationBatchOptions()):
        rows = [targets[i] for i in places]
        src_tokens = pad_rows([sources[i] for i in places], first=None, last=EOS).to(device)
        for i, ids, each in zip(places, rows, _token_lprobs(members, src_tokens, rows, names)):
            results[i] = make_hypothesis([*ids, EOS], each, options)
        if progress:
            progress(len(places))
    return results


@torch.inference_mode()
def _token_lprobs(
    models: Sequence[ScoringModel], src_tokens: Tensor, rows: Sequence[Sequence[int]], names: Sequence[str]
) -> list[list[float]]:
    """Log-probability of every token of the targets, EOS included."""
    target = pad_rows(rows, first=None, last=EOS).to(src_tokens.device)  # (bsz, tgt_len)
    prev_output_tokens = pad_rows(rows, first=BOS, last=None).to(src_tokens.device)
    real = target != PAD
    wanted = target[real].unsqueeze(1)  # (num_tokens, 1)
    each = []
    for place, model in enumerate(models):
        hidden = model(src_tokens, prev_output_tokens).hidden[real]  # (num_tokens, embed_dim)
        chunks = zip(torch.split(hidden, CHUNK), torch.split(wanted, CHUNK))
        lprobs = torch.cat([model.output.log_probs(h).gather(1, w).squeeze(1) for h, w in chunks])
        if lprobs.isnan().any():
            raise NotNumbers(model_name(place, len(models), names))
        each.append(lprobs)
    flat = iter(mean_of_probabilities(each).tolist())
    return [[next(flat) for _ in range(len(ids) + 1)] for ids in rows]
