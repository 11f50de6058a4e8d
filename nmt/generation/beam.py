"""Beam search, greedy search (a beam of one) and diverse beam search over one batch."""

from __future__ import annotations

import torch
from torch import Tensor

from nmt.config import ConfigError
from nmt.generation.constraints import Constraints
from nmt.generation.finished import Finished
from nmt.generation.hypothesis import Hypothesis, SearchBatch
from nmt.generation.interface import NotNumbers, TranslationModel
from nmt.generation.options import SearchOptions
from nmt.generation.topk import MAX_CANDIDATES, top_candidates
from nmt.text.vocabulary import BOS, EOS, UNK

COMPACT_SHARE = 0.1
"""Finished sentences leave the batch when they are at least this share of it: leaving copies the decoder's state."""

CHEAP_TO_ASK = ("cpu",)
"""Devices where reading a value costs nothing; elsewhere it would stall the queue."""


def beam_search(model: TranslationModel, batch: SearchBatch, options: SearchOptions) -> list[list[Hypothesis]]:
    """Search the best translations of every sentence of a batch.

    At every step the 2 x beam best continuations of a sentence are ranked by log-probability. Those among the first
    ``beam`` that end in EOS are finished; the first ``beam`` of the others live on. The search of a sentence stops when

    * ``patience x beam`` hypotheses are finished, or none lives; or
    * nothing that lives can still enter the n best. Log-probabilities only fall, so a hypothesis with log-probability
      s reaches at most s / norm(L), where L is the greatest length that the sentence may have (for a length_penalty
      >= 0; else the next length). Where the n-th finished score is at least that, waiting cannot change the result.

    Here and below a log-probability is less ``unk_penalty`` for every unknown word.

    Diverse beam search (Vijayakumar et al. 2016, arXiv:1610.02424) splits the beam into groups that are searched one
    after the other within a step. A group ranks by log-probability - diversity x (how often the live hypotheses of
    earlier groups took the token at this step); the penalty orders the candidates of that step, and no score keeps it.

    Args:
        model: in evaluation mode.
        batch: the sentences.
        options: how to search.

    Returns:
        For each sentence at most ``nbest`` distinct hypotheses, best score first. Fewer only where fewer exist: none
        where the rules left nothing to every hypothesis of the beam.

    Raises:
        NotNumbers: the model gives nan.
        ConfigError: the beam is too wide for the vocabulary.
    """
    with torch.inference_mode():
        return _BeamSearch(model, batch, options).run()


class _BeamSearch:
    """The tensors of a running search.

    Letters: B sentences still in the batch, G groups, W = beam / G hypotheses a group, T steps at most. A *choice* is
    ``parent * vocab_size + token``: the hypothesis that is continued (its place in the beam), and with what.
    """

    def __init__(self, model: TranslationModel, batch: SearchBatch, options: SearchOptions) -> None:
        self.model, self.options = model, options
        self.device = device = batch.src_tokens.device
        bsz, groups, beam = len(batch), options.diverse_groups, options.beam
        self.width = beam // groups
        self.num_steps = max(batch.limits) + (options.forced_length is None)
        self.state = model.init_state(model.encode(batch.src_tokens), beam=beam, max_len=self.num_steps)
        self.constraints = Constraints(batch, options)
        self.finished = Finished(batch, options)
        self.sentences = list(range(bsz))  # places in the batch as it was given
        self.scores = torch.full((bsz, groups, self.width), -torch.inf, device=device)  # live log-probabilities
        self.scores[:, :, 0] = 0.0  # a search starts from one empty hypothesis
        self.last = torch.full((bsz, beam), BOS, device=device)
        self.choices = torch.zeros((self.num_steps, bsz, beam), dtype=torch.int64, device=device)
        self.totals = torch.zeros((self.num_steps, bsz, beam), device=device)  # log-probabilities of the same
        self.first_rows = torch.arange(0, bsz * beam, beam, device=device).unsqueeze(1)
        # The hypotheses as token rows, where a constraint reads them.
        self.texts = self.choices.new_zeros((bsz * beam, self.num_steps)) if options.no_repeat_ngram else None

    def run(self) -> list[list[Hypothesis]]:
        results: list[list[Hypothesis]] = [[] for _ in self.sentences]
        for step in range(self.num_steps):
            top = self.constraints.top(step, 2 * self.width)
            lprobs = self.model.step(self.last.view(-1, 1), self.state, top)  # (B * beam, vocab_size)
            self.constraints.apply(lprobs, step, None if self.texts is None else self.texts[:, :step])
            lprobs = lprobs.view(len(self.sentences), self.options.beam, -1)
            parents = self._advance(lprobs, step)
            stopped = self.finished.stopped(self.scores, step)
            self.scores.masked_fill_(stopped.unsqueeze(2), -torch.inf)
            done = stopped.all(1)
            num_done = int(done.sum())  # the step's only wait for the device
            if num_done == len(self.sentences):
                self._collect(list(range(num_done)), step, lprobs.size(2), results)
                return results
            if num_done >= COMPACT_SHARE * len(self.sentences):
                ended = done.tolist()
                self._collect([i for i, end in enumerate(ended) if end], step, lprobs.size(2), results)
                parents = self._keep([i for i, end in enumerate(ended) if not end], parents)
            self._reorder(parents, step)
        raise AssertionError("every hypothesis ends at its sentence's limit")

    def _advance(self, lprobs: Tensor, step: int) -> Tensor:
        """Choose the next hypotheses; returns what they continue (B, beam)."""
        vocab_size = lprobs.size(2)
        if self.options.beam * vocab_size > MAX_CANDIDATES:
            most = MAX_CANDIDATES // vocab_size
            raise ConfigError(f"search.beam={self.options.beam}: at most {most} with {vocab_size} words")
        if self.options.diverse_groups == 1:
            totals, choices = self._advance_group(0, lprobs, None, step)
        else:
            totals, choices = self._advance_groups(lprobs, step)
        self.scores = totals.view(len(totals), -1, self.width)
        self.choices[step], self.totals[step] = choices, totals
        parents = choices // vocab_size
        self.last = choices - parents * vocab_size
        return parents

    def _advance_groups(self, lprobs: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """One group after the other; what they took is dearer to the next."""
        taken = lprobs.new_zeros((lprobs.size(0), lprobs.size(2)))  # (B, vocab_size)
        found = []
        for group, own in enumerate(torch.split(lprobs, self.width, dim=1)):
            penalty = (taken * self.options.diversity).unsqueeze(1)
            totals, choices = self._advance_group(group, own, penalty, step)
            taken.scatter_add_(1, choices % lprobs.size(2), totals.isfinite().float())
            found.append((totals, choices))
        return torch.cat([t for t, _ in found], dim=1), torch.cat([c for _, c in found], dim=1)

    def _advance_group(self, group: int, lprobs: Tensor, penalty: Tensor | None, step: int) -> tuple[Tensor, Tensor]:
        """Candidates of one group: those that end are finished, the best others returned.

        Args:
            group: its number.
            lprobs: log-probabilities of what its hypotheses may take next (B, W, vocab_size).
            penalty: subtracted from these to rank them (B, 1, vocab_size).
            step: tokens so far.

        Returns:
            Log-probabilities and choices of the hypotheses that live on (B, W).
        """
        width, vocab_size = self.width, lprobs.size(2)
        before = self.scores[:, group]
        totals, choices = top_candidates(before, lprobs if penalty is None else lprobs - penalty, 2 * width)  # (B, 2W)
        if penalty is not None:
            totals = before.gather(1, choices // vocab_size) + lprobs.flatten(1).gather(1, choices)
            choices = choices + group * width * vocab_size
        if step + 1 == self.options.forced_length:
            self.finished.add(group, totals.isfinite()[:, :width], totals, choices, step)
            return torch.full_like(totals[:, :width], -torch.inf), choices[:, :width]
        ends = (choices % vocab_size == EOS) & totals.isfinite()
        if self.device.type in CHEAP_TO_ASK and not ends.any():  # most steps
            return totals[:, :width], choices[:, :width]
        self.finished.add(group, ends[:, :width], totals, choices, step)
        alive = ends.byte().sort(dim=1, stable=True).indices[:, :width]  # the first W that do not end
        return totals.gather(1, alive), choices.gather(1, alive)

    def _keep(self, kept: list[int], parents: Tensor) -> Tensor:
        """Let all other sentences leave the batch."""
        index = torch.tensor(kept, device=self.device)
        self.sentences = [self.sentences[i] for i in kept]
        self.state = self.state.select(index)
        self.constraints.select(kept, index)
        self.finished.select(index)
        self.scores, self.last = self.scores.index_select(0, index), self.last.index_select(0, index)
        self.choices, self.totals = self.choices.index_select(1, index), self.totals.index_select(1, index)
        self.first_rows = self.first_rows[: len(kept)]
        if self.texts is not None:
            rows = self.texts.view(-1, self.options.beam, self.num_steps)
            self.texts = rows.index_select(0, index).flatten(0, 1)
        return parents.index_select(0, index)

    def _reorder(self, parents: Tensor, step: int) -> None:
        """Hypotheses take over the history of what they continue; ``parents`` is (B, beam)."""
        if self.options.beam > 1:
            rows = (parents + self.first_rows).view(-1)
            self.state.reorder(rows)
            if self.texts is not None:
                self.texts = self.texts.index_select(0, rows)
        if self.texts is not None:
            self.texts[:, step] = self.last.view(-1)

    def _collect(self, places: list[int], step: int, vocab_size: int, results: list[list[Hypothesis]]) -> None:
        """Read the finished hypotheses of the sentences at ``places``."""
        index = torch.tensor(places, device=self.device)
        choices, totals = (t[: step + 1].index_select(1, index).cpu() for t in (self.choices, self.totals))
        if totals.isnan().any():
            raise NotNumbers
        for row, found in enumerate(self.finished.best(index)):
            history = (choices[:, row].tolist(), totals[:, row].tolist())
            distinct: dict[tuple[int, ...], Hypothesis] = {}  # groups may have found the same one
            for score, total, last_step, choice in found:
                if len(distinct) == self.options.nbest:
                    break
                ids, sums = _trace(last_step, choice, total, *history, vocab_size)
                paid = [self.options.unk_penalty * (token == UNK) for token in ids]
                each = [now - before + more for now, before, more in zip(sums, [0.0, *sums[:-1]], paid)]
                hypothesis = Hypothesis(ids[:-1] if ids[-1] == EOS else ids, score, total + sum(paid), each)
                distinct.setdefault(tuple(ids), hypothesis)
            results[self.sentences[places[row]]] = list(distinct.values())


def _trace(
    step: int, choice: int, total: float, choices: list[list[int]], totals: list[list[float]], vocab_size: int
) -> tuple[list[int], list[float]]:
    """Walk back from the last choice of a hypothesis: its tokens, EOS included, and their running log-probabilities."""
    parent, token = divmod(choice, vocab_size)
    ids, sums = [token], [total]
    for t in range(step - 1, -1, -1):
        sums.append(totals[t][parent])
        parent, token = divmod(choices[t][parent], vocab_size)
        ids.append(token)
    return ids[::-1], sums[::-1]
