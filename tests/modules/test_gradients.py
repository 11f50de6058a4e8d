"""The gradient of every parameter of every component and criterion, against central differences in float64.

One random direction through all parameters at once needs two more passes; a wrong gradient of any of them is off in it,
and is then looked for parameter by parameter.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nmt.data.batch import Batch
from nmt.registry import build, slots

STEP = 1e-6
CLOSE = {"rel": 1e-6, "abs": 1e-6}  # float64: what the third derivative and rounding by the step leave


def assert_gradients(loss: Callable[[], Tensor], parameters: dict[str, nn.Parameter]) -> None:
    """Compare the gradients of a deterministic loss; every parameter that asks for one must get one."""
    trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    found = torch.autograd.grad(loss(), list(trained.values()), allow_unused=True)
    gradients = dict(zip(trained, found))
    without = [name for name, gradient in gradients.items() if gradient is None or not gradient.any()]
    assert not without, f"no gradient reaches {without}; a parameter that needs none says requires_grad=False"

    def difference(directions: dict[str, Tensor]) -> tuple[float, float]:
        """The derivative of the loss in a direction, by the gradients and by two losses."""
        losses = []
        with torch.no_grad():
            for step in (STEP, -2 * STEP, STEP):
                for name, direction in directions.items():
                    trained[name] += step * direction
                losses.append(float(loss()))
        return sum(float((gradients[n] * d).sum()) for n, d in directions.items()), (losses[0] - losses[1]) / (2 * STEP)

    directions = {name: torch.randn_like(parameter) for name, parameter in trained.items()}
    got, expected = difference(directions)
    if got != pytest.approx(expected, **CLOSE):
        each = {name: difference({name: direction}) for name, direction in directions.items()}
        wrong = {name: pair for name, pair in each.items() if pair[0] != pytest.approx(pair[1], **CLOSE)}
        pytest.fail(f"gradient and central difference of {wrong or (got, expected)}")


def loss_of(model: nn.Module, criterion: nn.Module, batch: Batch) -> Callable[[], Tensor]:
    """The loss in training, with the same random numbers each time: what routers draw."""

    def loss() -> Tensor:
        torch.manual_seed(5)
        return criterion(model, batch).loss

    model.train()
    criterion.train()
    return loss


NO_DROPOUT = ("model.dropout=0", "model.attention_dropout=0", "model.activation_dropout=0")


def test_of_every_variant(variant, make_variant, batch: Batch) -> None:
    model = make_variant(variant, *NO_DROPOUT, dtype=torch.float64)
    criterion = build("criterion", {"name": "cross_entropy"}, key="criterion")
    assert_gradients(loss_of(model, criterion, batch), dict(model.named_parameters()))


@pytest.mark.parametrize("output", slots()["output"].components)
@pytest.mark.parametrize("name", slots()["criterion"].components)
def test_of_every_criterion(name: str, output: str, make_model, batch: Batch) -> None:
    model = make_model(f"model.output.name={output}", *NO_DROPOUT, "model.embedding.share=none", dtype=torch.float64)
    criterion = build("criterion", {"name": name}, key="criterion").double()
    parameters = {**dict(model.named_parameters()), **dict(criterion.named_parameters(prefix="criterion"))}
    assert_gradients(loss_of(model, criterion, batch), parameters)
