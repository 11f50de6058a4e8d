"""What moving layers from the decoder to the encoder promises (Kasai et al. 2021, arXiv:2006.10369)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from nmt.models.encoder_decoder import EncoderDecoder, num_parameters
from nmt.models.state import num_bytes

WIDTH, INNER = 16, 24


def make(make_model: Any, encoder: int, decoder: int) -> EncoderDecoder:
    model: EncoderDecoder = make_model(f"model.encoder.layers={encoder}", f"model.decoder.layers={decoder}").eval()
    return model


def start(model: EncoderDecoder) -> Any:
    encoder_out = model.encode(torch.tensor([[4, 5, 6, 2], [7, 8, 9, 2]]))
    return model.init_state(encoder_out, beam=2, max_len=6)


def calls_of(model: EncoderDecoder, run: Any) -> list[str]:
    """Names of the modules that are called while something runs."""
    called: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in model.named_modules()
    ]
    run()
    for hook in hooks:
        hook.remove()
    return called


@torch.no_grad()
def test_a_step_does_not_depend_on_the_encoders_depth(make_model: Any) -> None:
    calls = []
    for depth in (1, 6):
        model = make(make_model, depth, 2)
        state = start(model)
        calls.append(calls_of(model, lambda model=model, state=state: model.step(torch.full((4, 1), 4), state)))
    assert calls[0] == calls[1]
    assert not any(name.startswith("encoder") for name in calls[0])


@torch.no_grad()
def test_source_is_read_once_a_sentence(make_model: Any) -> None:
    """Its keys and values are those of the start after any number of steps, one row a sentence."""
    model = make(make_model, 3, 1)
    state = start(model)
    before = [tensor.clone() for tensor in tensors(state.memory)]
    for _ in range(3):
        model.step(torch.full((4, 1), 4), state)
    after = tensors(state.memory)
    assert before
    assert all(tensor.size(0) == 2 for tensor in after)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def tensors(tree: Any) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    return [t for child in (tree.values() if isinstance(tree, dict) else tree) for t in tensors(child)]


@torch.no_grad()
def test_state_is_a_sixth(make_model: Any) -> None:
    deep, usual = (start(make(make_model, *depths)) for depths in ((12, 1), (6, 6)))
    for name in ("cache", "memory"):
        assert 6 * num_bytes(getattr(deep, name)) == num_bytes(getattr(usual, name))


@pytest.mark.parametrize(("encoder", "decoder"), [(6, 6), (12, 1), (6, 1), (1, 11)])
def test_parameters_by_formula(make_model: Any, encoder: int, decoder: int) -> None:
    attention, norm = 4 * (WIDTH * WIDTH + WIDTH), 2 * WIDTH
    inner = 2 * WIDTH * INNER + WIDTH + INNER
    expected = encoder * (attention + inner + 2 * norm) + decoder * (2 * attention + inner + 3 * norm)
    model = make(make_model, encoder, decoder)
    rest = sum(p.numel() for module in (model.encoder, model.decoder.stack) for p in own_norm(module))
    assert num_parameters(model) == expected + rest + 25 * WIDTH


def own_norm(stack: nn.Module) -> list[nn.Parameter]:
    """Parameters of a stack outside its layers: the last norm."""
    return [p for name, p in stack.named_parameters() if not name.startswith("layers.")]
