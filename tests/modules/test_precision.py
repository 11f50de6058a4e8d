"""What stays in float32 where a model computes in bfloat16: under autocast in training, or as a whole in decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from nmt.modules.feed_forward.routing import Router
from nmt.modules.self_attention.ssru import SimplerSimpleRecurrentUnit
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nmt.data.batch import Batch
from nmt.models.encoder_decoder import EncoderDecoder, full_log_probs
from nmt.models.state import Columns
from nmt.registry import build

WIDE = {
    "_softmax", "_log_softmax", "softmax", "log_softmax", "logsumexp", "cumsum", "exp", "exp_", "log", "softplus",
    "special_ndtr", "var", "std",
}  # fmt: skip
"""Operations whose result no component has in fewer bits: long sums, and what blows up errors."""

WHOLE = (SimplerSimpleRecurrentUnit, Router)
"""Modules that promise all of their arithmetic in float32 (docs/methods), products of their inputs apart."""

APART = {
    "mm", "addmm", "bmm", "linear", "matmul",
    "t", "transpose", "view", "_unsafe_view", "expand", "split", "chunk", "slice", "select", "unsqueeze", "squeeze",
    "permute", "flatten", "detach", "alias", "unbind", "to", "_to_copy",
}  # fmt: skip
"""Products, and what only moves values."""


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for child in value:
            yield from tensors(child)


class Narrow(TorchDispatchMode):
    """Notes the operations whose results must not have fewer bits than float32, and did.

    Attributes:
        found: names of operations, each behind the class of the module that promised.
        seen: names of all operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.seen: set[str] = set()
        self.within: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.seen.add(name)
        promised = name in WIDE or (self.within and name not in APART)
        if promised and any(t.dtype in (torch.bfloat16, torch.float16) for t in tensors(result)):
            self.found.add(".".join([*self.within[-1:], name]))
        return result

    def watch(self, model: nn.Module) -> None:
        """Tell what happens within the modules of a model that promise everything."""
        for module in model.modules():
            for method in ("forward", "step") if isinstance(module, WHOLE) else ():
                if hasattr(module, method):
                    setattr(module, method, self._watched(type(module).__name__, getattr(module, method)))

    def _watched(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.within.append(name)
            try:
                return method(*args, **kwargs)
            finally:
                self.within.pop()

        return watched


def test_training_under_autocast(variant, make_variant, batch: Batch) -> None:
    model: EncoderDecoder = make_variant(variant).train()
    criterion = build("criterion", {"name": "cross_entropy"}, key="criterion")
    with Narrow() as mode, torch.autocast("cpu", torch.bfloat16):
        mode.watch(model)
        output = criterion(model, batch)
        logits = model.output.log_probs(model(batch.src_tokens, batch.prev_output_tokens).hidden)
    output.loss.backward()
    assert not mode.found
    assert mode.seen & {"_log_softmax", "log_softmax"}, "the operations of a pass were not seen"
    assert {t.dtype for t in [output.loss, logits, *output.sums.values()]} == {torch.float32}
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}


def plain(state: Any) -> Iterator[Tensor]:
    """The tensors of a state that are no columns: what is summed up over the positions."""
    if isinstance(state, dict | list):
        for child in state.values() if isinstance(state, dict) else state:
            yield from plain(child)
    elif not isinstance(state, Columns):
        yield state


@torch.inference_mode()
def test_decoding_in_bfloat16(variant, make_variant, batch: Batch) -> None:
    model: EncoderDecoder = make_variant(variant).to(torch.bfloat16).eval()
    state = model.init_state(model.encode(batch.src_tokens), 2, 3)
    with Narrow() as mode:
        mode.watch(model)
        found = [model.step(tokens, state) for tokens in torch.full((6, 3), 5).split([2, 1], dim=1)]
        found.append(full_log_probs(model, batch.src_tokens, batch.prev_output_tokens))  # forced scoring
    assert not mode.found
    assert mode.seen & {"_log_softmax", "log_softmax"}, "the operations of a step were not seen"
    assert {lprobs.dtype for lprobs in found} == {torch.float32}
    assert {t.dtype for t in plain(state.cache)} <= {torch.float32}
