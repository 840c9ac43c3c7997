"""Tensors of the Open Inference Protocol, from both of their wire formats to Python values.

The tensors of a request are all typed (`InferTensorContents`), or all raw, as Triton's client sends them:
elements in row-major order, little-endian, each element of a BYTES tensor after its length in four bytes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from protos import open_inference_pb2 as wire
from protos.errors import InvalidInput

STRING = "BYTES"
NUMBERS = {"FP32": "<f4", "FP64": "<f8"}
CONTENTS = {STRING: "bytes_contents", "FP32": "fp32_contents", "FP64": "fp64_contents"}
LENGTH_BYTES = 4


@dataclass(frozen=True)
class Tensor:
    """An input of a request.

    Args:
        message: name, datatype, shape, and the content if it is typed.
        raw: the content if it is raw.
    """

    message: wire.ModelInferRequest.InferInputTensor
    raw: bytes | None = None

    @property
    def field(self) -> str:
        """The field that errors name."""
        return f"inputs.{self.message.name}"

    def extent(self, max_rows: int, min_columns: int, max_columns: int) -> tuple[int, int]:
        """Rows and columns; a shape of one dimension has one column.

        Raises:
            InvalidInput: the shape has not one or two dimensions, has no rows, or has too many or too few
                rows or columns.
        """
        shape = self.message.shape
        if not 1 <= len(shape) <= 2:
            raise InvalidInput(self.field, f"expected a shape of 1 or 2 dimensions, got {len(shape)}")
        rows, columns = shape[0], shape[1] if len(shape) == 2 else 1
        if not 1 <= rows <= max_rows:
            raise InvalidInput(self.field, f"expected 1 to {max_rows} rows, got {rows}")
        if not min_columns <= columns <= max_columns:
            several = f"{min_columns} to {max_columns} columns"
            expected = "1 column" if min_columns == max_columns else several
            raise InvalidInput(self.field, f"expected {expected}, got {columns}")
        return rows, columns

    def strings(self, count: int) -> list[str]:
        """The elements of a BYTES tensor.

        Args:
            count: of elements, by the shape.

        Raises:
            InvalidInput: the datatype is another one, the count is wrong, or an element is not UTF-8.
        """
        self._check_datatype((STRING,))
        if self.raw is None:
            return decoded(self._typed(count), self.field)
        return decoded(unpacked(self.raw, count, self.field), self.field)

    def numbers(self, count: int) -> list[float]:
        """The elements of an FP32 or FP64 tensor; arguments and errors as of `strings`."""
        self._check_datatype(tuple(NUMBERS))
        if self.raw is None:
            return list(self._typed(count))
        element = np.dtype(NUMBERS[self.message.datatype])
        if len(self.raw) != count * element.itemsize:
            expected = f"{count * element.itemsize} bytes, as datatype and shape say"
            raise InvalidInput(self.field, f"expected {expected}, got {len(self.raw)}")
        values: list[float] = np.frombuffer(self.raw, element).tolist()
        return values

    def _check_datatype(self, expected: tuple[str, ...]) -> None:
        if self.message.datatype not in expected:
            found = f"expected datatype {' or '.join(expected)}, got {self.message.datatype!r}"
            raise InvalidInput(self.field, found)

    def _typed(self, count: int) -> Any:
        expected = CONTENTS[self.message.datatype]
        for found, _ in self.message.contents.ListFields():
            if found.name != expected:
                raise InvalidInput(self.field, f"expected {expected}, as its datatype says, got {found.name}")
        values = getattr(self.message.contents, expected)
        if len(values) != count:
            raise InvalidInput(self.field, f"expected {_elements(count)}, got {len(values)}")
        return values


def received(request: wire.ModelInferRequest) -> dict[str, Tensor]:
    """The tensors of a request by name, in its order.

    Raises:
        InvalidInput: a tensor is given twice, has parameters, or is both typed and raw.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        found = f"expected {len(request.inputs)}, one for each input, got {len(raw)}"
        raise InvalidInput("raw_input_contents", found)
    tensors: dict[str, Tensor] = {}
    for n, message in enumerate(request.inputs):
        tensor = Tensor(message, raw[n] if raw else None)
        if message.name in tensors:
            raise InvalidInput(tensor.field, "given twice")
        if raw and message.contents.ListFields():
            raise InvalidInput(tensor.field, "expected either contents or raw_input_contents, got both")
        refuse_parameters(message.parameters, f"{tensor.field}.parameters")
        tensors[message.name] = tensor
    return tensors


def refuse_parameters(parameters: Mapping[str, wire.InferParameter], field: str) -> None:
    """Refuse parameters: they are for extensions of the protocol, and this server has none.

    Raises:
        InvalidInput: there is a parameter, such as that for a tensor in shared memory.
    """
    if parameters:
        raise InvalidInput(field, f"none are known here, got {min(parameters)!r}")


def unpacked(raw: bytes, count: int, field: str) -> list[bytes]:
    """The elements of a raw BYTES tensor.

    Args:
        raw: content of the tensor.
        count: of elements, by the shape.
        field: that errors name.

    Raises:
        InvalidInput: the content holds more or fewer elements, or ends within an element.
    """
    elements: list[bytes] = []
    at = 0
    while at < len(raw):
        if len(elements) == count:
            raise InvalidInput(field, f"expected {_elements(count)}, got more")
        start = at + LENGTH_BYTES
        length = int.from_bytes(raw[at:start], "little")
        at = start + length
        if at > len(raw):
            raise InvalidInput(f"{field}[{len(elements)}]", "ends before its length says")
        elements.append(raw[start:at])
    if len(elements) != count:
        raise InvalidInput(field, f"expected {_elements(count)}, got {len(elements)}")
    return elements


def decoded(elements: Iterable[bytes], field: str) -> list[str]:
    """The elements of a BYTES tensor as text.

    Raises:
        InvalidInput: an element is not UTF-8.
    """
    texts: list[str] = []
    for n, element in enumerate(elements):
        try:
            texts.append(element.decode())
        except UnicodeDecodeError:
            raise InvalidInput(f"{field}[{n}]", "expected UTF-8") from None
    return texts


def _elements(count: int) -> str:
    return f"{count} element{'s' * (count != 1)}, as its shape says"
