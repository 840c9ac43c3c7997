"""An LSTM that can be exported to ONNX with a free number of steps.

torch's exporter writes a recurrent layer step by step, for as many steps as its example has. So the layer is
an operator of our own while a tower is exported, and `export/onnx/translations.py` says what it is in ONNX.
"""

import torch
from torch import Tensor, nn

_GATES = (0, 3, 1, 2)  # ONNX has input, output, forget and cell; torch has input, forget, cell and output


class Lstm(nn.Module):
    """An LSTM of one layer that starts at zero (Hochreiter and Schmidhuber 1997).

    Args:
        inputs: H, size of a word's vector.
        dimension: D, of the state.
    """

    def __init__(self, inputs: int, dimension: int) -> None:
        super().__init__()
        self.layer = nn.LSTM(inputs, dimension, batch_first=True)

    def forward(self, words: Tensor) -> Tensor:
        """Vectors of the words (B, W, H) -> state after each of them (B, W, D)."""
        if not torch.compiler.is_exporting():
            states: Tensor = self.layer(words)[0]
            return states
        layer, parameters = self.layer, self.layer.all_weights[0]
        weights, recurrence, *biases = (_reordered(each) for each in parameters)
        bias = torch.cat(biases)
        found: Tensor = lstm(words, weights[None], recurrence[None], bias[None], layer.hidden_size)
        return found


def _reordered(parameter: Tensor) -> Tensor:
    """(4 D, ...), in torch's order of the gates -> in that of ONNX."""
    gates = parameter.reshape(4, -1, *parameter.shape[1:])
    return gates[torch.tensor(_GATES)].flatten(0, 1)


@torch.library.custom_op("twinspire::lstm", mutates_args=())
def lstm(words: Tensor, weights: Tensor, recurrence: Tensor, bias: Tensor, hidden: int) -> Tensor:
    """States (B, W, D), with parameters as ONNX has them; only its shape is used, while a tower is exported.

    Args:
        words: (B, W, H).
        weights: (1, 4 D, H).
        recurrence: (1, 4 D, D).
        bias: (1, 8 D).
        hidden: D.
    """
    raise NotImplementedError("it is written to an ONNX graph, and not computed")


@lstm.register_fake
def _(words: Tensor, weights: Tensor, recurrence: Tensor, bias: Tensor, hidden: int) -> Tensor:
    return words.new_empty(words.shape[0], words.shape[1], hidden)
