"""Cutoffs of an adaptive softmax that cost least on this machine (Grave et al. 2017, arXiv:1609.04309, section 4.2).

    python scripts/choose_cutoffs.py corpus=data/captions model=tiny tails=3 out=results/cutoffs.json

``nmt-train``'s keys choose model and corpus. Times of the loss, forward and backward, are measured for a grid of
numbers of tokens and of words at the width of each band; between them logarithms are interpolated. For every number of
tails a dynamic programme over the words, sorted by frequency, finds the cutoffs of least expected time. What it finds
is then built and timed in turn with the plain softmax and the default cutoffs.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nmt.config import compose
from nmt.data.corpus import Corpus
from nmt.files import write_text
from nmt.models.bands import NUM_SPECIAL, Bands, default_cutoffs
from nmt.models.cross_entropy import chunked_cross_entropy
from nmt.models.linear import LinearMaker
from nmt.provenance import provenance
from nmt.registry import build, discover

OWN = {"tails": "3", "div_value": "4.0", "tokens": "1024", "repeats": "5", "threads": "", "out": ""}
"""Keys of this script with their defaults; all others are nmt-train's."""

CANDIDATES = 160
"""Ranks, evenly spaced in their logarithms, at which a band may begin."""

GRID = 6
"""Numbers of tokens, and of words, whose times are measured."""

Cost = Callable[[int, float, int], float]
"""Band, tokens, outputs (words, and in band 0 clusters): seconds."""


def best_cutoffs(shares: np.ndarray, tokens: int, tails: int, candidates: Sequence[int], cost: Cost) -> list[int]:
    """The cutoffs of least expected time with a given number of tails.

    Band i runs for the tokens whose word lies in it, band 0 (with a cluster a tail) for all.

    Args:
        shares: of each word in running text, by rank (vocab_size,).
        tokens: in a batch.
        tails: bands after the first.
        candidates: ranks at which a tail may begin, ascending.
        cost: of one band.
    """
    size, below = len(shares), np.concatenate([[0.0], np.cumsum(shares)])
    # least[b]: time of the bands from the current one on if it begins at rank b, and where the next ones begin.
    least: dict[int, tuple[float, list[int]]] = {size: (0.0, [])}
    for band in range(tails, 0, -1):
        found = {}
        for begin in candidates:
            options = [
                (cost(band, tokens * (below[end] - below[begin]), end - begin) + later, [begin, *ends])
                for end, (later, ends) in least.items()
                if end > begin
            ]
            if options:
                found[begin] = min(options)
        least = found
    return min((cost(0, tokens, begin + tails) + later, ends) for begin, (later, ends) in least.items())[1]


def seconds_of(function: Callable[[], Any], repeats: int) -> float:
    """Median time of a call."""
    function()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return median(times)


def measured_cost(dim: int, widths: Sequence[int], tokens: int, vocab_size: int, repeats: int) -> Cost:
    """Times of bands of some widths, interpolated between measurements."""
    token_axis = np.geomspace(1, tokens, GRID).round().astype(int)
    word_axis = np.geomspace(NUM_SPECIAL, vocab_size, GRID).round().astype(int)
    tables = [
        np.log([[seconds_of(_band(dim, width, n, k, band > 0), repeats) for k in word_axis] for n in token_axis])
        for band, width in enumerate(widths)
    ]

    def cost(band: int, num_tokens: float, outputs: int) -> float:
        x, y = math.log(max(1.0, num_tokens)), math.log(max(outputs, NUM_SPECIAL))
        along = [np.interp(y, np.log(word_axis), row) for row in tables[band]]
        return float(np.exp(np.interp(x, np.log(token_axis), along)))

    return cost


def _band(dim: int, width: int, tokens: int, words: int, narrowed: bool) -> Callable[[], None]:
    """The loss of one band with its gradients."""
    hidden = torch.randn(tokens, dim, requires_grad=True)
    down = torch.randn(width, dim, requires_grad=True)
    weight = torch.randn(words, width, requires_grad=True)
    target = torch.randint(words, (tokens,))

    def run() -> None:
        states = F.linear(hidden, down) if narrowed else hidden
        chunked_cross_entropy(states, weight, None, target)[0].backward()  # type: ignore[no-untyped-call]

    return run


class _NoSharing:
    """Stands for an embedding whose vectors the output does not share."""

    def output_bands(self) -> None:
        return None


def loss_of(cutoffs: list[int], div_value: float, dim: int, counts: Tensor, tokens: int) -> Callable[[], None]:
    """The loss, with its gradients, of an adaptive output on words drawn as often as they occur."""
    node = {"name": "adaptive", "cutoffs": cutoffs, "div_value": div_value}
    output = build(
        "output",
        node,
        key="model.output",
        embed_dim=dim,
        vocab_size=len(counts),
        embedding=_NoSharing(),
        make_linear=LinearMaker({"name": "dense"}),
    ).train()
    output.order.use(counts)
    target = torch.multinomial(counts.double(), tokens, replacement=True)
    hidden = torch.randn(tokens, dim, requires_grad=True)
    return lambda: output.loss(hidden, target, 0.0)[0].backward()


def choose(corpus: Corpus, dim: int, given: dict[str, str]) -> list[dict[str, Any]]:
    """For every number of tails the best cutoffs; then what these, the default and the plain softmax take."""
    tails, tokens, repeats, div_value = (
        int(given["tails"]),
        int(given["tokens"]),
        int(given["repeats"]),
        float(given["div_value"]),
    )
    counts = torch.from_numpy(corpus.split("train").counts("target"))
    special, others = counts[:NUM_SPECIAL], counts[NUM_SPECIAL:].sort(descending=True).values
    shares = torch.cat([special, others]).double().numpy()  # by rank
    size, shares = len(shares), shares / shares.sum()
    chosen: dict[str, list[int]] = {"plain softmax": [], "default": default_cutoffs(size)}
    most = max(tails, len(chosen["default"]))
    widths = Bands.make(
        list(range(NUM_SPECIAL, NUM_SPECIAL + most)), div_value, key="", vocab_size=size, dim=dim
    ).widths
    print(f"measuring {len(widths) * GRID**2} products", file=sys.stderr)
    cost = measured_cost(dim, widths, tokens, size, repeats)
    candidates = sorted(set(np.geomspace(NUM_SPECIAL, size - 1, CANDIDATES).round().astype(int).tolist()))
    for number in range(1, tails + 1):
        name = f"chosen, {number} tail{'s' * (number > 1)}"
        chosen[name] = best_cutoffs(shares, tokens, number, candidates, cost)
    rows = []
    runs = {name: loss_of(cutoffs, div_value, dim, counts, tokens) for name, cutoffs in chosen.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(seconds_of(run, 3))
    for name, cutoffs in chosen.items():
        row = {"cutoffs": cutoffs, "expected_ms": 1e3 * expected(shares, tokens, cutoffs, cost)}
        rows.append({"name": name, **row, "measured_ms": 1e3 * median(times[name])})
    return rows


def expected(shares: np.ndarray, tokens: int, cutoffs: Sequence[int], cost: Cost) -> float:
    """Seconds that the bands of some cutoffs should take together."""
    bounds = [*cutoffs, len(shares)]
    head = cost(0, tokens, bounds[0] + len(cutoffs))
    pairs = enumerate(pairwise(bounds), start=1)
    return head + sum(cost(band, tokens * shares[begin:end].sum(), end - begin) for band, (begin, end) in pairs)


def main(arguments: list[str]) -> None:
    typed = dict(argument.split("=", 1) for argument in arguments)
    given = {key: typed.pop(key, default) for key, default in OWN.items()}
    if "corpus" not in typed:
        raise SystemExit("choose_cutoffs: corpus=FOLDER is required")
    if given["threads"]:
        torch.set_num_threads(int(given["threads"]))
    discover()
    torch.manual_seed(1)
    node = compose("train", [*(f"{key}={value}" for key, value in typed.items()), "run=none"]).model
    rows = choose(Corpus.open(typed["corpus"]), node.decoder.embed_dim, given)
    for row in rows:
        times = f"expected {row['expected_ms']:.1f} ms, measured {row['measured_ms']:.1f} ms"
        print(f"{row['name']}: model.output.cutoffs={row['cutoffs']} ({times})")
    if given["out"]:
        facts = {**provenance(), **given, "threads": torch.get_num_threads(), "rows": rows}
        write_text(Path(given["out"]), json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
