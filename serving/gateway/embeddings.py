"""Vectors of texts as clients of other services ask for them: OpenAI's, and Text Embeddings Inference's.

    POST /v1/embeddings  {"input": "red shoes", "model": "query"}  -> {"data": [{"embedding": [...]}], ...}
    POST /embed          {"inputs": ["red shoes"]}                 -> [[...]]

The model is one of the bundle's towers. The item tower has to be offered (`serve --item-tower`), and to read
one text.
"""

import base64
import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import grpc
import numpy as np

from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.gateway.failures import HttpFailure, invalid
from twinspire.serving.gateway.messages import decode, document, encode, most_fields, too_many

MODELS = ("query", "item")
FORMATS = ("float", "base64")  # of a vector; OpenAI's own client asks for the second: float32, little-endian
LIGHT_TEXTS = 1000  # of which a message is made in at most 10 ms


class Asked(NamedTuple):
    """The texts of a request, the tower that reads them, and the format of their vectors."""

    texts: list[str]
    model: str
    format: str

    def message(self, info: wire.InfoResponse | None) -> wire.EncodeRequest:
        """The call; `info`, if the item tower is asked, names the text that it reads.

        Raises:
            HttpFailure: it reads none, or several.
        """
        if info is None:
            return wire.EncodeRequest(queries=[wire.Query(text=text) for text in self.texts])
        name = _item_text(info.manifest_json)
        values = [{name: wire.FeatureValue(text=text)} for text in self.texts]
        return wire.EncodeRequest(items=[wire.UnseenItem(features=each) for each in values])


@lru_cache(maxsize=2)
def _item_text(manifest: str) -> str:
    """The name of the text that the item tower of a bundle reads; errors as of `Asked.message`."""
    specs = json.loads(manifest)["schema"]["item"]
    names: list[str] = [name for name, spec in specs.items() if spec["kind"] == "text"]
    if len(names) != 1:
        raise invalid(f"model: the item tower reads {len(names)} texts, not one; use /v1/encode")
    return names[0]


class EmbeddingForm:
    """How one kind of client asks for `Encode`, and is answered.

    Args:
        texts: name of the field that holds a text, or a list of texts.
        others: names of the other fields.
        answer: makes the document of an answer, from the request and the vectors.
    """

    def __init__(
        self, texts: str, others: tuple[str, ...], answer: Callable[[Asked, list[Any]], Any]
    ) -> None:
        self._texts, self._known, self._answer = texts, (texts, *others), answer

    def read(self, content: bytes | bytearray, max_fields: int) -> Asked:
        """What a body asks; arguments and errors as of `parse`."""
        given = decode(content, max_fields)
        if not isinstance(given, dict):
            raise invalid("body: expected a JSON object")
        for name in given.keys() - {*self._known}:
            raise invalid(f"{name[:100]}: unknown field; expected one of {', '.join(self._known)}")
        texts = given.get(self._texts)
        texts = [texts] if isinstance(texts, str) else texts
        if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
            raise invalid(f"{self._texts}: expected a text, or a list of texts")
        most = most_fields(wire.EncodeRequest.DESCRIPTOR, max_fields)
        if 2 * len(texts) > most:  # in the JSON of `Encode` each is an object with a field
            raise too_many(most)
        try:
            "".join(texts).encode()
        except UnicodeEncodeError:
            raise invalid(f"{self._texts}: expected Unicode, got a lone surrogate") from None
        asked = Asked(texts, given.get("model", "query"), given.get("encoding_format", "float"))
        if asked.model not in MODELS:
            raise HttpFailure(grpc.StatusCode.NOT_FOUND, f"model: expected one of {', '.join(MODELS)}")
        if asked.format not in FORMATS:
            raise invalid(f"encoding_format: expected one of {', '.join(FORMATS)}")
        return asked

    def write(self, asked: Asked, message: wire.EncodeResponse) -> bytes:
        """An answer as JSON."""
        vectors = [each["values"] for each in document(message)["vectors"]]
        if asked.format == "base64":
            vectors = [base64.b64encode(np.asarray(each, "<f4").tobytes()).decode() for each in vectors]
        return encode(self._answer(asked, vectors))


def _openai(asked: Asked, vectors: list[Any]) -> Any:
    words = sum(len(text.split()) for text in asked.texts)  # towers have no tokens
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": n, "embedding": each} for n, each in enumerate(vectors)],
        "model": asked.model,
        "usage": {"prompt_tokens": words, "total_tokens": words},
    }


OPENAI = EmbeddingForm("input", ("model", "encoding_format"), _openai)
INFERENCE = EmbeddingForm("inputs", ("model",), lambda asked, vectors: vectors)
