"""Of which bundle each answer is: every answer is looked at, for little more than comparing bytes.

An answer is right where the ids and scores in it are those that the bundle of its `bundle_version` gives in
this process, compared as `protos/scores.py` says. Then its bytes up to the version are remembered, and the
next answer that begins with them needs no other look: what follows are only times.
"""

from collections.abc import Sequence

from protos import retrieval_pb2 as wire
from protos.scores import Hits, difference

PREFIX = 5  # bytes that gRPC writes before a message
MIXED = -1
REMEMBERED = (
    8  # beginnings of the answers to a query; scores differ in their last bit with the size of a batch
)
VERSION_TAG = bytes([wire.SearchResponse.DESCRIPTOR.fields_by_name["bundle_version"].number << 3 | 2])


class Versions:
    """Tells answers apart.

    Args:
        versions: of the bundles that may answer.
        expected: for each of them, what it finds for each query.

    Attributes:
        mixed: answers whose version and items do not belong together, or whose version is none of these.
        first: what the first of those was.
        telling: queries that the bundles answer differently; in the others a mixture would not be seen.
    """

    def __init__(self, versions: Sequence[str], expected: Sequence[Sequence[Hits]]) -> None:
        self.mixed = 0
        self.first = ""
        self._places = {version: place for place, version in enumerate(versions)}
        self._expected = expected
        self.telling = sum(bool(difference(*pair)) for pair in zip(expected[0], expected[1], strict=True))
        self._known: list[list[tuple[bytes, int]]] = [[] for _ in expected[0]]

    def of(self, number: int, body: bytes) -> int:
        """The place of the version that an answer is of, or `MIXED`.

        Args:
            number: of the query.
            body: the answer, as gRPC writes it.
        """
        for begin, place in self._known[number]:
            if body.startswith(begin, PREFIX):
                rest = wire.SearchResponse.FromString(body[PREFIX + len(begin) :])
                if not rest.hits and not rest.bundle_version:
                    return place
        return self._look(number, body[PREFIX:])

    def _look(self, number: int, message: bytes) -> int:
        answer = wire.SearchResponse.FromString(message)
        place = self._places.get(answer.bundle_version, MIXED)
        found = [(hit.id, hit.score) for hit in answer.hits]
        wrong = "unknown version" if place == MIXED else difference(self._expected[place][number], found)
        if wrong:
            self.mixed += 1
            text = f"query {number}: bundle {answer.bundle_version[:12] or 'unknown'} with {found[:3]}..."
            self.first = self.first or f"{text}: {wrong}"
            return MIXED
        self._remember(number, message, answer, place)
        return place

    def _remember(self, number: int, message: bytes, answer: wire.SearchResponse, place: int) -> None:
        """Where all hits stand before the version, as the service writes them."""
        version = answer.bundle_version.encode()
        begin, marker, _ = message.partition(VERSION_TAG + bytes([len(version)]) + version)
        if len(wire.SearchResponse.FromString(begin).hits) == len(answer.hits):
            known = self._known[number]
            known.insert(0, (begin + marker, place))
            del known[REMEMBERED:]
