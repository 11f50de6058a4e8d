"""Random translations: every token is drawn from the model's distribution."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nmt.generation.constraints import Constraints
from nmt.generation.hypothesis import Hypothesis, SearchBatch, make_hypothesis
from nmt.generation.interface import NotNumbers, TranslationModel
from nmt.generation.options import SearchOptions
from nmt.text.vocabulary import BOS, EOS, UNK


def sample(model: TranslationModel, batch: SearchBatch, options: SearchOptions) -> list[list[Hypothesis]]:
    """Draw ``nbest`` translations of every sentence.

    The numbers that decide come from a generator of the sentence's own (Philox, keyed by the seed and the sentence's
    place in the input), so neither the other sentences nor the batch size change a sample. Scores are those of the
    model: temperature, top-k and top-p (Holtzman et al. 2019, arXiv:1904.09751) change what is drawn, not its score.
    What a rule forbids is never drawn; a draw that comes to where nothing is allowed gives no translation.

    Args:
        model: in evaluation mode.
        batch: the sentences.
        options: how to draw.

    Returns:
        ``nbest`` hypotheses of every sentence, best score first; the same one may have been drawn twice. Fewer where
        draws came to no end.

    Raises:
        NotNumbers: the model gives nan.
    """
    with torch.inference_mode():
        return _Sampler(model, batch, options).run()


class _Sampler:
    def __init__(self, model: TranslationModel, batch: SearchBatch, options: SearchOptions) -> None:
        self.model, self.options, self.limits = model, options, batch.limits
        self.device = device = batch.src_tokens.device
        bsz, rows = len(batch), options.rows
        self.num_steps = max(batch.limits) + (options.forced_length is None)
        self.state = model.init_state(model.encode(batch.src_tokens), beam=rows, max_len=self.num_steps)
        self.constraints = Constraints(batch, options)
        self.uniform = self._draw(batch.keys or list(range(bsz)))
        self.tokens = torch.zeros((bsz * rows, self.num_steps), dtype=torch.int64, device=device)
        self.token_lprobs = torch.zeros((bsz * rows, self.num_steps), device=device)
        self.ended = torch.zeros(bsz * rows, dtype=torch.bool, device=device)

    def _draw(self, keys: list[int]) -> Tensor:
        """Numbers in [0, 1) for every step and row (num_steps, bsz * rows)."""
        numbers = np.zeros((self.num_steps, len(keys), self.options.rows), dtype=np.float64)
        for place, key in enumerate(keys):
            generator = np.random.Generator(np.random.Philox(key=np.array([self.options.seed, key], dtype=np.uint64)))
            steps = min(self.limits[place] + 1, self.num_steps)
            numbers[:steps, place] = generator.random((steps, self.options.rows))
        return torch.from_numpy(numbers).to(self.device).flatten(1)

    def run(self) -> list[list[Hypothesis]]:
        last = torch.full((len(self.ended), 1), BOS, device=self.device)
        for step in range(self.num_steps):
            lprobs = self.model.step(last, self.state)  # (bsz * rows, vocab_size)
            self.constraints.apply(lprobs, step, self.tokens[:, :step] if self.options.no_repeat_ngram else None)
            chosen = draw(lprobs, self.uniform[step], self.options)
            lost = chosen < 0
            chosen = chosen.masked_fill(lost, EOS)
            last = chosen.unsqueeze(1)
            self.tokens[:, step] = chosen.masked_fill(self.ended, EOS)
            # Of a lost row the greatest: minus infinity, or nan.
            self.token_lprobs[:, step] = torch.where(lost, lprobs.amax(1), lprobs.gather(1, last).squeeze(1))
            self.ended |= chosen == EOS
            if bool(self.ended.all()):
                break
        return self._collect()

    def _collect(self) -> list[list[Hypothesis]]:
        tokens, lprobs = self.tokens.tolist(), self.token_lprobs.tolist()
        rows = [self._hypothesis(ids, each) for ids, each in zip(tokens, lprobs)]
        size = self.options.rows
        sentences = (rows[i : i + size] for i in range(0, len(rows), size))
        return [sorted(filter(None, found), key=lambda h: h.score, reverse=True) for found in sentences]

    def _hypothesis(self, ids: list[int], lprobs: list[float]) -> Hypothesis | None:
        """A row up to its EOS; None if it is lost."""
        length = ids.index(EOS) + 1 if EOS in ids else len(ids)
        ids, lprobs = ids[:length], lprobs[:length]
        if math.isnan(sum(lprobs)):
            raise NotNumbers
        if lprobs[-1] == -math.inf:
            return None
        penalty = self.options.unk_penalty
        return make_hypothesis(ids, [p + penalty * (i == UNK) for i, p in zip(ids, lprobs)], self.options)


def draw(lprobs: Tensor, uniform: Tensor, options: SearchOptions) -> Tensor:
    """Draw one token a row by inverting the distribution function.

    Args:
        lprobs: (rows, vocab_size); need not be normalised.
        uniform: numbers in [0, 1), float64 (rows,).
        options: temperature, then top-k, then top-p.

    Returns:
        ids (rows,); -1 where no token has a probability, or none that is a number.
    """
    lprobs, ids = lprobs / options.temperature, None
    if options.top_k or options.top_p < 1:
        k = min(options.top_k or lprobs.size(1), lprobs.size(1))
        lprobs, ids = lprobs.sort(dim=1, descending=True, stable=True)
        lprobs, ids = lprobs[:, :k], ids[:, :k]
    probs = lprobs.double().softmax(1)
    if options.top_p < 1:
        before = probs.cumsum(1) - probs  # the first token that reaches p still counts
        probs = probs.masked_fill(before >= options.top_p, 0.0)
    mass = probs.cumsum(1)
    total = mass[:, -1]
    place = torch.searchsorted(mass, (uniform * total).unsqueeze(1), right=True)
    last_possible = probs.size(1) - 1 - (probs > 0).flip(1).byte().argmax(1, keepdim=True)
    place = torch.minimum(place, last_possible)
    drawn = (place if ids is None else ids.gather(1, place)).squeeze(1)
    return drawn.masked_fill(~(total > 0), -1)
