"""The criterion on a padded batch, and the terms that components add."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from nmt.config import ConfigError
from nmt.data.batch import Batch
from nmt.models.encoder_decoder import ModelOutput
from nmt.registry import build
from nmt.training.interfaces import real_tokens

BATCH = Batch(
    src_tokens=torch.tensor([[4, 5, 2], [6, 2, 0]]),
    prev_output_tokens=torch.tensor([[1, 7, 8, 9], [1, 5, 0, 0]]),
    target=torch.tensor([[7, 8, 9, 2], [5, 2, 0, 0]]),
    num_tokens=6,
    ids=[0, 1],
)


def make(**options: float):
    return build("criterion", {"name": "cross_entropy", **options}, key="criterion")


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_sum_over_real_tokens(eps: float, make_model) -> None:
    model = make_model(dtype=torch.float64).eval()
    logits = model.output.projection(model(BATCH.src_tokens, BATCH.prev_output_tokens).hidden).flatten(0, 1)
    target = BATCH.target.flatten()
    expected = F.cross_entropy(logits, target, label_smoothing=eps, ignore_index=0, reduction="sum")
    got = make(label_smoothing=eps)(model, BATCH)
    assert_close(got.loss, expected)
    assert_close(got.sums["loss"], expected.detach())
    assert_close(got.sums["nll"], F.cross_entropy(logits, target, ignore_index=0, reduction="sum").detach())
    assert not got.sums["loss"].requires_grad
    assert got.figures == {}


def test_a_compiled_pass_takes_the_place_of_the_model(make_model) -> None:
    """A compiled module has no length and no truth value."""

    class Compiled:
        calls = 0

        def __len__(self) -> int:
            raise TypeError

        def __call__(self, *tokens: torch.Tensor) -> ModelOutput:
            self.calls += 1
            return model(*tokens)

    model, compiled = make_model().eval(), Compiled()
    assert_close(make()(model, BATCH, compiled).loss, make()(model, BATCH).loss)
    assert compiled.calls == 1


def test_terms_of_components_count_per_token(make_model) -> None:
    """A term stands on the scale of the mean per token: it is multiplied by the 6 tokens, and logged as it is."""
    model, weight = make_model().eval(), torch.tensor(0.5, requires_grad=True)

    def run(src_tokens: torch.Tensor, prev_output_tokens: torch.Tensor) -> ModelOutput:
        output = model(src_tokens, prev_output_tokens)
        output.losses["balance"], output.figures["load"] = 2 * weight, torch.tensor(7.0)
        return output

    plain, got = make()(model, BATCH), make()(model, BATCH, run)
    assert_close(got.loss, plain.loss + 2 * 0.5 * 6)
    assert torch.autograd.grad(got.loss, weight)[0] == 12
    assert_close(got.sums, plain.sums)
    assert {name: value.item() for name, value in got.figures.items()} == {"balance": 1.0, "load": 7.0}


def test_real_tokens_keep_their_order() -> None:
    hidden = torch.arange(8.0).view(2, 4, 1)
    kept, target = real_tokens(hidden, BATCH.target)
    assert kept.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert target.tolist() == [7, 8, 9, 2, 5, 2]


@pytest.mark.parametrize("eps", [-0.1, 1.0])
def test_label_smoothing_is_a_share(eps: float) -> None:
    with pytest.raises(ConfigError, match=rf"^criterion\.label_smoothing={eps} is out of range"):
        make(label_smoothing=eps)
