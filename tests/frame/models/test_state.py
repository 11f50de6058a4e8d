"""Trees of tensors, and the decoder's state as a whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nmt.models.state import Columns, DecoderState, Step, num_bytes, tree_map


def test_tree_map_keeps_the_tree() -> None:
    tree = {"a": torch.tensor([1]), "b": [torch.tensor([2]), {"c": torch.tensor([3])}, {}]}
    assert tree_map(lambda t: t * 2, tree) == {
        "a": torch.tensor([2]),
        "b": [torch.tensor([4]), {"c": torch.tensor([6])}, {}],
    }
    assert num_bytes(tree) == 3 * 8


@pytest.mark.parametrize("leaf", [(torch.zeros(1),), None, 3])
def test_other_things_are_no_state(leaf: object) -> None:
    with pytest.raises(TypeError, match=f"holds tensors, Columns, dicts and lists, not {type(leaf).__name__}"):
        tree_map(lambda t: t, {"a": leaf})


def make_state() -> DecoderState:
    """Three sentences with two hypotheses each; every row holds its own number."""
    mask = torch.tensor([[True, True], [True, False], [True, True]]).view(3, 1, 1, 2)
    cache = [{"k": torch.arange(6.0)[:, None]}, {}]
    state = DecoderState.start(cache, [torch.arange(3.0)], mask, bsz=3, beam=2, max_len=9, device=torch.device("cpu"))
    state.position = 4
    return state


def test_reorder_moves_hypotheses_in_place() -> None:
    state = make_state()
    tensor = state.cache[0]["k"]
    state.reorder(torch.tensor([1, 0, 2, 2, 5, 5]))
    assert state.cache[0]["k"] is tensor
    assert tensor.flatten().tolist() == [1, 0, 2, 2, 5, 5]
    assert state.memory[0].tolist() == [0, 1, 2]


def columns_state(beam: int, max_len: int, bsz: int = 1) -> DecoderState:
    """A state with a single ``Columns`` of one head and one feature."""
    cache = {"k": Columns(torch.full((bsz * beam, 1, max_len, 1), -1.0))}
    return DecoderState.start(cache, [], None, bsz=bsz, beam=beam, max_len=max_len, device=torch.device("cpu"))


def history(state: DecoderState, step: Step, seen: Tensor) -> list[list[float]]:
    """What each hypothesis of the first sentence may see, in order of position."""
    mask = torch.zeros(1, 1, state.beam, seen.size(2)) if step.attn_mask is None else step.attn_mask
    return [seen[0, 0, mask[0, 0, i] == 0, 0].tolist() for i in range(mask.size(2))]


def test_hypotheses_find_their_history_where_it_was_written() -> None:
    state = columns_state(beam=2, max_len=3)
    like, tensor = torch.zeros(1), state.cache["k"].tensor
    step = state.begin(1, like)
    seen = step.write(state.cache["k"], torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
    assert history(state, step, seen) == [[1], [2]]
    state.reorder(torch.tensor([1, 1]))  # both go on from the second
    assert tensor.flatten().tolist() == [1, 2, -1, -1, -1, -1]  # nothing was moved
    step = state.begin(1, like)
    seen = step.write(state.cache["k"], torch.tensor([3.0, 4.0]).view(2, 1, 1, 1))
    assert history(state, step, seen) == [[2, 3], [2, 4]]
    state.reorder(torch.tensor([1, 0]))
    step = state.begin(1, like)
    seen = step.write(state.cache["k"], torch.tensor([5.0, 6.0]).view(2, 1, 1, 1))
    assert history(state, step, seen) == [[2, 4, 5], [2, 3, 6]]
    assert seen.data_ptr() == tensor.data_ptr()


@pytest.mark.parametrize("beam", [1, 3])
def test_several_tokens_at_once_see_no_later_ones(beam: int) -> None:
    state = columns_state(beam, max_len=4)
    state.begin(1, torch.zeros(1))
    step = state.begin(2, torch.zeros(1, dtype=torch.float64))
    assert step.attn_mask is not None
    assert step.attn_mask.dtype == torch.float64
    assert step.attn_mask.shape == (1, 1, 2 * beam, 3 * beam)
    seen = torch.arange(3.0).repeat_interleave(beam).view(1, 1, -1, 1)  # the position of every column
    assert history(state, step, seen) == [[0, 1], [0, 1, 2]] * beam


def test_one_hypothesis_and_one_token_need_no_mask() -> None:
    assert columns_state(1, 3).begin(1, torch.zeros(1)).attn_mask is None


def test_queries_and_answers_are_inverse() -> None:
    step = Step(torch.arange(2), 2, 3, None, None)
    q = torch.randn(6, 4, 2, 5)
    asked = step.queries(q)
    assert asked.shape == (2, 4, 6, 5)
    assert torch.equal(asked[1, 2, 2 * 2 + 1], q[3 + 2, 2, 1])  # hypothesis 2 of sentence 1, its second token
    assert torch.equal(step.answers(asked), q)


def test_select_copies_what_is_written() -> None:
    state = columns_state(beam=2, max_len=3, bsz=3)
    step = state.begin(2, torch.zeros(1))
    step.write(state.cache["k"], torch.arange(12.0).view(6, 1, 2, 1))
    chosen = state.select(torch.tensor([2, 0]))
    assert isinstance(chosen.cache["k"], Columns)
    assert chosen.cache["k"].tensor.shape == (4, 1, 3, 1)
    assert chosen.cache["k"].blocks(2)[:, 0, :4, 0].tolist() == [[8, 10, 9, 11], [0, 2, 1, 3]]


def test_select_takes_sentences_with_all_their_hypotheses() -> None:
    state = make_state()
    state.memory_mask = state.memory_mask.clone()
    chosen = state.select(torch.tensor([2, 1]))
    assert chosen.cache[0]["k"].flatten().tolist() == [4, 5, 2, 3]
    assert chosen.memory[0].tolist() == [2, 1]
    assert chosen.memory_mask.flatten().tolist() == [True, True, True, False]
    assert (chosen.beam, chosen.max_len, chosen.position) == (2, 9, 4)
    assert state.cache[0]["k"].flatten().tolist() == [0, 1, 2, 3, 4, 5]  # the old state is as it was


def test_select_without_padding() -> None:
    state = make_state()
    state.memory_mask = None
    assert state.select(torch.tensor([0])).memory_mask is None


def test_write_is_in_place_and_returns_a_view() -> None:
    cache = torch.zeros(1, 1, 4, 1)
    step = Step(torch.tensor([1, 2]), 3, 1, None, None)
    got = step.write(Columns(cache), torch.tensor([7.0, 8.0]).view(1, 1, 2, 1))
    assert cache.flatten().tolist() == [0, 7, 8, 0]
    assert got.flatten().tolist() == [0, 7, 8]
    assert got.data_ptr() == cache.data_ptr()
