"""The assembly of a model: what it refuses, its sizes, and the channel by which components report."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from nmt.config import ConfigError, compose
from nmt.models.encoder_decoder import build_model, full_log_probs, num_parameters
from nmt.models.interfaces import ForwardPass

SRC = torch.tensor([[4, 5, 6, 2], [7, 2, 0, 0]])
PREV = torch.tensor([[1, 8, 9], [1, 10, 0]])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.encoder.num_heads=3", "model.encoder.num_heads=3 does not divide model.encoder.embed_dim=16"),
        ("model.decoder.self_attention.num_heads=3", "model.decoder.self_attention.num_heads=3 does not divide"),
        ("model.decoder.self_attention.name=avrage", "model.decoder.self_attention.name='avrage' is not a registered"),
        ("model.decoder.self_attention=average", "model.decoder.self_attention=average must be a group of keys"),
        (
            "model.decoder.self_attention.gate=1",
            "unknown key model.decoder.self_attention.gate; valid keys here: bias,",
        ),
        ("model.encoder.layer.norm_position=mid", "model.encoder.layer.norm_position: Invalid value 'mid'"),
        ("model.encoder.layers=-1", "model.encoder.layers=-1 is out of range: it must be at least 0"),
        ("model.encoder.self_atention.name=x", "unknown key model.encoder.self_atention; valid keys here: embed_dim,"),
        ("model.decoder.gate=1", "unknown key model.decoder.gate; valid keys here: "),
        ("model.decoder.name=fertile", "model.decoder.name='fertile' is not a registered decoder; valid options:"),
        ("model.dropout=1", "model.dropout=1.0 is out of range: it must be less than 1"),
        ("model.decoder.embed_dim=8", "model.embedding.share=all needs equal widths"),
        ("model.norms=1", "unknown key model.norms; valid keys here: activation_dropout,"),
        ("~model.decoder.cross_attention", "model.decoder.cross_attention is required"),
        ("~model.embedding", "model.embedding is required"),
    ],
)
def test_mistakes_name_the_full_key(override: str, message: str, make_model) -> None:
    with pytest.raises(ConfigError) as caught:
        make_model(override)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_number_of_parameters_by_hand(make_model) -> None:
    """16 wide, 24 inner, 25 words, tied, pre-norm; a norm has 2 x 16, a projection weights and biases."""
    attention, feed_forward, norm = 4 * (16 * 16 + 16), (16 * 24 + 24) + (24 * 16 + 16), 2 * 16
    encoder = 2 * (attention + feed_forward + 2 * norm) + norm
    decoder = 2 * (2 * attention + feed_forward + 3 * norm) + norm
    assert num_parameters(make_model()) == 25 * 16 + encoder + decoder
    assert num_parameters(make_model("model.embedding.share=decoder")) == 2 * 25 * 16 + encoder + decoder
    assert num_parameters(make_model("model.embedding.share=none")) == 3 * 25 * 16 + encoder + decoder


def test_tied_matrix_is_one_parameter(make_model) -> None:
    model = make_model()
    weight = model.output.projection.weight
    assert weight is model.embedding.source.words.weight
    assert [name for name, p in model.named_parameters() if p is weight] == ["embedding.source.words.weight"]


def test_without_layers_a_model_still_runs(make_model) -> None:
    model = make_model("model.encoder.layers=0", "model.decoder.layers=0").eval()
    assert full_log_probs(model, SRC, PREV).shape == (2, 3, 25)


def test_separate_vocabularies() -> None:
    node = compose("train", ["model=tiny", "model.embedding.share=decoder"]).model
    model = build_model(node, source_size=31, target_size=17, joint=False).eval()
    assert full_log_probs(model, torch.tensor([[30, 2]]), torch.tensor([[1, 16]])).shape == (1, 2, 17)


def test_full_log_probs_are_normalised(make_model) -> None:
    got = full_log_probs(make_model().eval(), SRC, PREV)
    assert got.dtype == torch.float32
    assert_close(got.exp().sum(-1), torch.ones(2, 3))


def test_encoder_output(make_model) -> None:
    model = make_model().eval()
    padded, whole = model.encode(SRC), model.encode(SRC[:1])
    assert padded.padding_mask.tolist() == [[False] * 4, [False, False, True, True]]
    assert whole.padding_mask is None
    assert_close(whole.states[0], padded.states[0])


def test_largest_positions(make_model) -> None:
    model = make_model("model.embedding.max_positions=5")
    assert (model.max_source_length, model.max_target_length) == (5, 5)


def test_layers_report_through_the_pass_and_share_within_one_stack(make_model) -> None:
    model = make_model().eval()
    seen: list[int] = []

    def report(layer, arguments, kwargs=None) -> None:
        memo: ForwardPass = arguments[2]
        seen.append(len(memo.shared))
        memo.shared[layer] = True
        memo.add_loss("balance", torch.tensor(2.0))
        memo.add_figure("load", torch.tensor(float(len(seen)), requires_grad=True))

    for layer in [*model.encoder.layers, *model.decoder.stack.layers]:
        layer.register_forward_pre_hook(report)
    output = model(SRC, PREV)
    assert seen == [0, 1, 0, 1]  # the decoder starts with nothing from the encoder
    assert output.losses == {"balance": torch.tensor(8.0)}  # summed over the four layers
    assert output.figures == {"load": torch.tensor(4.0)}
    assert not output.figures["load"].requires_grad
