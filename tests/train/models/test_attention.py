"""The forward pass of attention over a history, against a reference in NumPy."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from twinspire.train.models.sequence_encoders import AttentionEncoder, TransformerBlock, Windows, item_table

Doubles = npt.NDArray[np.float64]


class ReferenceBlock:
    """A transformer block computed position by position, in double precision."""

    def __init__(self, block: nn.Module) -> None:
        assert isinstance(block, TransformerBlock)
        self.heads = block.heads
        self.weights = {name: value.double().numpy() for name, value in block.state_dict().items()}

    def linear(self, name: str, x: Doubles) -> Doubles:
        return np.asarray(x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"])

    def norm(self, name: str, x: Doubles) -> Doubles:
        return layer_norm(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def __call__(self, x: Doubles) -> Doubles:
        """(L, H) -> (L, H)."""
        inside = self.norm("attention_norm", x)
        queries, (keys, values) = (
            self.linear("query", inside),
            np.split(self.linear("key_value", inside), 2, 1),
        )
        size, joined = x.shape[1] // self.heads, np.zeros_like(x)
        for head in range(self.heads):
            part = slice(head * size, (head + 1) * size)
            for place in range(len(x)):
                before = slice(place + 1)
                scores = keys[before, part] @ queries[place, part] / np.sqrt(size)
                scores += self.weights["distance"][place - np.arange(place + 1), head]
                joined[place, part] = np.exp(scores) / np.exp(scores).sum() @ values[before, part]
        x = x + self.linear("output", joined)
        inner = torch.from_numpy(self.linear("inner", self.norm("forward_norm", x)))
        added = self.linear("outer", nn.functional.gelu(inner).numpy())
        return np.asarray(x + added)


def layer_norm(x: Doubles, weight: Doubles, bias: Doubles) -> Doubles:
    centred = x - x.mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5) * weight + bias)


def attention(layers: int, heads: int) -> AttentionEncoder:
    """An encoder with random parameters."""
    torch.manual_seed(0)
    encoder = AttentionEncoder(item_table(10, 8, 1.0), layers, heads, 0.1, 0.2, 7)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.7)
    return encoder


@pytest.mark.parametrize(("layers", "heads"), [(2, 2), (1, 4), (3, 1)])
def test_attention_equals_the_reference(layers: int, heads: int) -> None:
    encoder = attention(layers, heads).eval()
    rows = [5, 3, 3, 11]
    x = encoder.table.detach().double().numpy()[rows]
    for block in encoder.blocks:
        x = ReferenceBlock(block)(x)
    with torch.no_grad():
        last = encoder(torch.tensor([rows]))[0]
    weight, bias = (value.double().numpy() for value in encoder.norm.state_dict().values())
    np.testing.assert_allclose(last, layer_norm(x[-1], weight, bias), atol=1e-5)


def test_training_and_serving_compute_the_same() -> None:
    """Training adds its mask to the scores, serving puts it into the bias; gradients are the same, too."""
    encoder = attention(2, 2)
    encoder.input_dropout = 0.0
    for block in encoder.blocks:
        block.dropout = 0.0  # type: ignore[assignment]
    rows = torch.tensor([[0, 2, 3, 4, 9], [0, 0, 0, 5, 5], [0, 0, 0, 0, 0]])
    for history in (rows, Windows(rows, torch.arange(15))):
        torch.testing.assert_close(encoder.train()(history), encoder.eval()(history), rtol=0, atol=1e-5)
        gradients = []
        for is_training in (True, False):
            encoder.train(is_training).zero_grad()
            encoder(history).square().sum().backward()
            gradients.append([parameter.grad for parameter in encoder.parameters()])
        for trained, served in zip(*gradients, strict=True):
            torch.testing.assert_close(trained, served, rtol=1e-4, atol=1e-4)


def test_dropout_is_only_active_in_training() -> None:
    encoder, rows = attention(2, 2).eval(), torch.tensor([[2, 3, 4]])
    assert torch.equal(encoder(rows), encoder(rows))
    encoder.train()
    assert not torch.equal(encoder(rows), encoder(rows))
