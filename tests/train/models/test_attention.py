"""The forward pass of attention over a history, against a reference in NumPy."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from train.models.sequence_encoders import AttentionEncoder, TransformerBlock, Windows, item_table

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
        x = x + self.linear("output", joined) * self.gate("attention_gate", x)
        inner = torch.from_numpy(self.linear("inner", self.norm("forward_norm", x)))
        added = self.linear("outer", nn.functional.gelu(inner).numpy())
        return np.asarray(x + added * self.gate("forward_gate", x))

    def gate(self, name: str, x: Doubles) -> Doubles:
        """(L, H), between 0 and 1; 1 if the block has no gates."""
        if f"{name}.weight" not in self.weights:
            return np.ones_like(x)
        return np.asarray(1 / (1 + np.exp(-self.linear(name, x))))


def layer_norm(x: Doubles, weight: Doubles, bias: Doubles) -> Doubles:
    centred = x - x.mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5) * weight + bias)


def attention(layers: int, heads: int, gates: bool = False) -> AttentionEncoder:
    """An encoder with random parameters."""
    torch.manual_seed(0)
    encoder = AttentionEncoder(item_table(10, 8, 1.0), layers, heads, 0.1, 0.2, 7, gates)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.7)
    return encoder


GATES = pytest.mark.parametrize("gates", [False, True])


@GATES
@pytest.mark.parametrize(("layers", "heads"), [(2, 2), (1, 4), (3, 1)])
def test_attention_equals_the_reference(layers: int, heads: int, gates: bool) -> None:
    encoder = attention(layers, heads, gates).eval()
    rows = [5, 3, 3, 11]
    x = encoder.table.detach().double().numpy()[rows]
    for block in encoder.blocks:
        x = ReferenceBlock(block)(x)
    with torch.no_grad():
        last = encoder(torch.tensor([rows]))[0]
    weight, bias = (value.double().numpy() for value in encoder.norm.state_dict().values())
    np.testing.assert_allclose(last, layer_norm(x[-1], weight, bias), atol=1e-5)


@GATES
def test_training_and_serving_compute_the_same(gates: bool) -> None:
    """Training adds its mask to the scores, serving puts it into the bias; gradients are the same, too."""
    encoder = attention(2, 2, gates)
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


def test_open_gates_change_no_bit_and_closed_ones_leave_the_items() -> None:
    plain, gated = attention(2, 2).eval(), attention(2, 2, gates=True).eval()
    missing, unexpected = gated.load_state_dict(plain.state_dict(), strict=False)
    assert {name.split(".")[2] for name in missing} == {"attention_gate", "forward_gate"}
    assert not unexpected
    gates = [getattr(block, name) for block in gated.blocks for name in ("attention_gate", "forward_gate")]
    rows = torch.tensor([[0, 2, 3, 4, 9]])
    for bias in (200.0, -200.0):  # sigmoid is 1, and 0
        for gate in gates:
            nn.init.zeros_(gate.weight)
            nn.init.constant_(gate.bias, bias)
        expected = plain(rows) if bias > 0 else plain.norm(plain.table[rows[:, -1]])
        assert torch.equal(gated(rows), expected)


def test_every_gate_of_a_training_step_learns() -> None:
    encoder = attention(2, 2, gates=True).train()
    encoder(Windows(torch.tensor([[0, 2, 3, 4, 9]]), torch.arange(5))).square().sum().backward()
    gates = {name: each.grad for name, each in encoder.named_parameters() if "_gate." in name}
    assert len(gates) == 8
    assert all(each is not None and each.abs().min() > 0 for each in gates.values())


def test_without_gates_the_same_seed_gives_the_same_parameters() -> None:
    def made(gates: bool) -> TransformerBlock:
        torch.manual_seed(3)
        return TransformerBlock(8, 2, 0.1, 7, gates)

    plain, gated = made(False).state_dict(), made(True).state_dict()
    assert len(gated) == len(plain) + 4
    assert all(torch.equal(value, gated[name]) for name, value in plain.items())
