"""Trees of tensors, and the decoder's state as a whole."""

from __future__ import annotations

import pytest
import torch

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
    return DecoderState(cache, [torch.arange(3.0)], mask, beam=2, max_len=9, position=4)


def test_reorder_moves_hypotheses_in_place() -> None:
    state = make_state()
    tensor = state.cache[0]["k"]
    state.reorder(torch.tensor([1, 0, 2, 2, 5, 5]))
    assert state.cache[0]["k"] is tensor
    assert tensor.flatten().tolist() == [1, 0, 2, 2, 5, 5]
    assert state.memory[0].tolist() == [0, 1, 2]


def test_reorder_moves_only_the_columns_that_are_written() -> None:
    tensor = torch.arange(12.0).view(2, 1, 3, 2)
    state = DecoderState([{"k": Columns(tensor)}], [], None, beam=2, max_len=3, position=2)
    state.reorder(torch.tensor([1, 1]))
    assert tensor.flatten().tolist() == [6, 7, 8, 9, 4, 5, 6, 7, 8, 9, 10, 11]
    chosen = state.select(torch.tensor([0]))
    assert isinstance(chosen.cache[0]["k"], Columns)


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
    step = Step(torch.tensor([1, 2]), 3, None, None)
    got = step.write(Columns(cache), torch.tensor([7.0, 8.0]).view(1, 1, 2, 1))
    assert cache.flatten().tolist() == [0, 7, 8, 0]
    assert got.flatten().tolist() == [0, 7, 8]
    assert got.data_ptr() == cache.data_ptr()
