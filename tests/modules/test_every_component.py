"""What holds for every component of a model, found through the registry: a new one is tested by being registered.

A component stands in a decoder (where it fits, in the encoder too) of 2 + 2 layers, 16 wide, in float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from nmt.models.encoder_decoder import EncoderDecoder
from nmt.models.interfaces import ForwardPass
from nmt.models.masks import SelfMask
from nmt.models.state import DecoderState, num_bytes, tree_map
from nmt.registry import discover, slots

discover()

EXACT = {"rtol": 0.0, "atol": 1e-10}  # float64: only the order of sums may differ
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # float32

DECODER_SLOTS = ("self_attention", "cross_attention", "feed_forward", "layer", "stack")
CASES = {
    f"{slot}-{name}": [f"model.decoder.{slot}.name={name}"]
    for slot in DECODER_SLOTS
    for name in slots()[slot].components
}
CASES |= {
    f"{slot}-{name}": [f"model.{slot}.name={name}"]
    for slot in ("norm", "linear", "embedding", "output")
    for name in slots()[slot].components
}
CASES |= {
    "post-norm": [f"model.{side}.layer.norm_position=post" for side in ("encoder", "decoder")],
    "adaptive-shared": [
        "model.embedding={name: adaptive, share: all, cutoffs: [6, 12]}",
        "model.output={name: adaptive, cutoffs: [6, 12]}",
    ],
    "learned-positions": ["model.embedding.positions=learned"],
    "no-positions": ["model.embedding.positions=none"],
    "gated": ["model.decoder.feed_forward.activation=swiglu"],
    **{
        f"{name}-rms_norm-gated": [
            f"model.decoder.self_attention.name={name}",
            "model.norm.name=rms_norm",
            "model.decoder.feed_forward.activation=swiglu",
        ]
        for name in ("average", "ssru")
    },
    "average-raw": ["model.decoder.self_attention={name: average, average_input: raw}"],
    "other-width": ["model.encoder.embed_dim=24", "model.embedding.share=decoder"],
    "other-heads": ["model.decoder.self_attention.num_heads=4", "model.decoder.cross_attention.num_heads=1"],
    "shared-blocks": [
        *("model.decoder.layers=4", "model.decoder.self_attention={name: shared, policy: [1, 3]}"),
        "model.decoder.cross_attention={name: shared, policy: [3, 1]}",
    ],
    "shared-weights": ["model.decoder.cross_attention={name: shared, share: weights}"],
    "shared-before-output": ["model.decoder.cross_attention={name: shared, context_point: pre_out}"],
    "dropout": ["model.dropout=0.5", "model.attention_dropout=0.5", "model.activation_dropout=0.5"],
}
ENCODER_SLOTS = ("self_attention", "feed_forward", "layer", "stack")
READS_ENCODER = {("layer", "compressed")}
"""What needs the output of an encoder to read."""

ENCODER_CASES = {
    f"{slot}-{name}": [f"model.encoder.{slot}.name={name}"]
    for slot in ENCODER_SLOTS
    for name, component in slots()[slot].components.items()
    if not getattr(component.factory, "causal_only", False) and (slot, name) not in READS_ENCODER
}

SRC = torch.tensor([[4, 5, 6, 7, 8, 9, 2], [10, 11, 12, 2, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0]])
TGT_LEN = 9


def prefixes(rows: int, length: int = TGT_LEN) -> Tensor:
    """Random target prefixes (rows, length) that start with BOS."""
    tokens = torch.randint(4, 23, (rows, length))
    tokens[:, 0] = 1
    return tokens


@pytest.fixture(params=CASES.values(), ids=CASES)
def model(request: pytest.FixtureRequest, make_model) -> Iterator[EncoderDecoder]:
    with torch.no_grad():
        yield make_model(*request.param, dtype=torch.float64).eval()


def full(model: EncoderDecoder, src: Tensor, prev: Tensor) -> Tensor:
    """Log-probabilities of all positions at once."""
    return model.output.log_probs(model(src, prev).hidden)


def start(model: EncoderDecoder, beam: int = 1, src: Tensor = SRC, max_len: int = TGT_LEN) -> DecoderState:
    return model.init_state(model.encode(src), beam, max_len)


# --- decoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spans", [[1] * TGT_LEN, [3, 1, 1, 1, 1, 1, 1], [TGT_LEN], [2, 1, 4, 2]], ids=str)
def test_steps_equal_the_whole(model: EncoderDecoder, spans: list[int]) -> None:
    prev = prefixes(len(SRC))
    expected = full(model, SRC, prev)
    state = start(model)
    for span in spans:
        before = state.position
        got = model.step(prev[:, before : before + span], state)
        assert state.position == before + span
        assert_close(got, expected[:, before + span - 1], **EXACT)


def test_steps_equal_the_whole_in_float32(model: EncoderDecoder) -> None:
    model.float()
    prev = prefixes(len(SRC))
    expected, state = full(model, SRC, prev), start(model)
    for t in range(TGT_LEN):
        got = model.step(prev[:, t : t + 1], state)
        assert got.dtype == torch.float32
        assert_close(got, expected[:, t], **CLOSE)


def replay(model: EncoderDecoder, beam: int, moves: list[tuple[str, int]]) -> None:
    """Decode random tokens, reordering and selecting on the way; compare every step with the whole prefix."""
    sentences = list(range(len(SRC)))
    state = start(model, beam, max_len=2 * TGT_LEN)
    seen = torch.empty(len(SRC) * beam, 0, dtype=torch.int64)
    for move, number in moves:
        generator = torch.Generator().manual_seed(number)
        if move == "reorder":
            parents = torch.randint(beam, (len(sentences), beam), generator=generator)
            rows = (parents + beam * torch.arange(len(sentences))[:, None]).view(-1)
            state.reorder(rows)
            seen = seen[rows]
        elif move == "select" and len(sentences) > 1:
            kept = torch.randperm(len(sentences), generator=generator)[: len(sentences) - 1]
            state = state.select(kept)
            seen = seen.view(len(sentences), beam, -1)[kept].flatten(0, 1)
            sentences = [sentences[i] for i in kept.tolist()]
        elif move == "step":
            tokens = prefixes(len(seen), number) if state.position == 0 else prefixes(len(seen), number + 1)[:, 1:]
            seen = torch.cat([seen, tokens], dim=1)
            expected = full(model, SRC[sentences].repeat_interleave(beam, 0), seen)[:, -1]
            assert_close(model.step(tokens, state), expected, **EXACT)


def test_steps_with_reorder_and_select_equal_the_whole(model: EncoderDecoder) -> None:
    moves = [("step", 3), ("reorder", 1), ("step", 1), ("step", 1), ("select", 2), ("step", 1), ("reorder", 3)]
    replay(model, 3, [*moves, ("step", 2), ("select", 4), ("step", 1)])


MOVES = st.lists(st.tuples(st.sampled_from(["step", "reorder", "select"]), st.integers(1, 3)), max_size=6)


@given(beam=st.integers(1, 4), moves=MOVES)
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
def test_any_order_of_moves_equals_the_whole(make_model, beam: int, moves: list[tuple[str, int]]) -> None:
    with torch.no_grad():
        replay(make_model(dtype=torch.float64).eval(), beam, [("step", 1), *moves, ("step", 1)])


def test_state_is_allocated_once(model: EncoderDecoder) -> None:
    def pointers(state: DecoderState) -> list[int]:
        found: list[int] = []
        tree_map(lambda t: found.append(t.data_ptr()) or t, [state.cache, state.memory])
        return found

    state = start(model, beam=2)
    before, size = pointers(state), num_bytes([state.cache, state.memory])
    for tokens in prefixes(6).split([4, 1, 1, 1, 1, 1], dim=1):
        model.step(tokens, state)
        state.reorder(torch.tensor([1, 0, 2, 2, 5, 4]))
        assert (pointers(state), num_bytes([state.cache, state.memory])) == (before, size)
    tree_map(lambda t: (t.size(0) == 6 or pytest.fail("cache: a row is a hypothesis")) and t, state.cache)
    tree_map(lambda t: (t.size(0) == 3 or pytest.fail("memory: a row is a sentence")) and t, state.memory)


def test_state_that_is_too_short_is_refused(model: EncoderDecoder) -> None:
    state = start(model, max_len=2)
    with pytest.raises(AssertionError, match="3 positions do not fit into a state of 2"):
        model.step(prefixes(3, 3), state)


# --- batches ----------------------------------------------------------------------------------------------------------


def test_sentence_alone_equals_it_in_a_padded_batch(model: EncoderDecoder) -> None:
    prev = prefixes(len(SRC))
    lengths = [9, 4, 1]
    for row, length in enumerate(lengths):
        prev[row, length:] = 0
    together = full(model, SRC, prev)
    for row, length in enumerate(lengths):
        src = SRC[row : row + 1, : int(SRC[row].ne(0).sum())]
        assert_close(full(model, src, prev[row : row + 1, :length])[0], together[row, :length], **EXACT)


def test_order_of_the_batch_changes_nothing(model: EncoderDecoder) -> None:
    prev, order = prefixes(len(SRC)), torch.tensor([2, 0, 1])
    assert_close(full(model, SRC[order], prev[order]), full(model, SRC, prev)[order], **EXACT)


def test_evaluation_draws_no_random_numbers(model: EncoderDecoder) -> None:
    prev, before = prefixes(len(SRC)), torch.get_rng_state()
    assert_close(full(model, SRC, prev), full(model, SRC, prev), rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before)


# --- who sees whom ----------------------------------------------------------------------------------------------------


def reach(outputs: Tensor, inputs: Tensor) -> Tensor:
    """Bool (length out, length in): whether an output position depends on an input position, by gradient."""
    weighted = outputs * torch.randn_like(outputs)  # the plain sum over the features of a norm is constant
    rows = [torch.autograd.grad(weighted[:, t].sum(), inputs, retain_graph=True)[0] for t in range(outputs.size(1))]
    return torch.stack([row.abs().sum((0, 2)) > 0 for row in rows])


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_no_position_sees_a_later_one(overrides: list[str], make_model) -> None:
    model = make_model(*overrides, dtype=torch.float64).eval()
    memory = model.encode(SRC[:1])
    x = torch.randn(1, 6, 16, dtype=torch.float64, requires_grad=True)
    seen = reach(model.decoder.stack(x * 1, SelfMask(causal=True), ForwardPass(), memory), x)
    assert not seen.triu(1).any(), "a position depends on a later one"
    assert seen.diagonal().all()
    assert seen[5, :5].any(), "nothing mixes the positions"


@pytest.mark.parametrize("overrides", ENCODER_CASES.values(), ids=ENCODER_CASES)
def test_encoder_sees_both_sides_but_no_padding(overrides: list[str], make_model) -> None:
    model = make_model(*overrides, dtype=torch.float64).eval()
    x = torch.randn(1, 6, 16, dtype=torch.float64, requires_grad=True)
    padding = torch.tensor([[False] * 4 + [True] * 2])
    seen = reach(model.encoder(x * 1, SelfMask(causal=False, padding_mask=padding), ForwardPass()), x)
    assert not seen[:4, 4:].any(), "a word depends on padding"
    assert seen[0, 1:4].any()
    assert seen[3, :3].any()


def test_decoder_reads_the_source_but_no_padding(model: EncoderDecoder) -> None:
    prev = prefixes(len(SRC))
    encoder_out = model.encode(SRC)
    before = model.decoder(prev, encoder_out, ForwardPass())
    encoder_out.states[encoder_out.padding_mask] = 1e3
    assert_close(model.decoder(prev, encoder_out, ForwardPass()), before, **EXACT)
    encoder_out.states[0, 0] += 1
    after = model.decoder(prev, encoder_out, ForwardPass())
    assert (after[0] - before[0]).abs().amax(-1).gt(1e-6).all(), "some position ignores the source"
