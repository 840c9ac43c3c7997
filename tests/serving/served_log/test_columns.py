"""The ids and scores of the served log, read from the bytes of answers, beside protobuf's reading."""

from collections.abc import Sequence
from random import Random

import pytest

from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.segments.packed_items import pack_parts, pack_score, packed_hit
from twinspire.serving.served_log.columns import read_hits

REST = wire.SearchResponse(bundle_version="abc", request_id="r", weak=True)


def assert_read(answers: Sequence[bytes]) -> None:
    """The lists and the rest of each answer are those that protobuf reads."""
    ids, scores, rests = read_hits(answers)
    messages = [wire.SearchResponse.FromString(each) for each in answers]
    assert ids.to_pylist() == [[hit.id for hit in each.hits] for each in messages]
    assert scores.to_pylist() == [[hit.score for hit in each.hits] for each in messages]
    for each in messages:
        each.ClearField("hits")
    assert rests == messages
    ids.validate(full=True)


@pytest.mark.parametrize("parts", [0, 2, 3])
def test_hits_of_all_sizes_are_those_of_the_messages(parts: int) -> None:
    """Ids and hits have lengths of one, two and three bytes, and scores have bytes that look like tags."""
    random = Random(parts)

    def hit() -> bytes:
        item_id = "é" * random.choice([1, 3, 63, 64, 200, 9000])
        fields = {f"field {n}": "x" * random.choice([0, 5, 300]) for n in range(random.randrange(4))}
        score, *more = [random.choice([0.0, 0.5, 1.1e-14, 2.6e-11, -7.3e22]) for _ in range(1 + parts)]
        scores = pack_parts(score, *more) if parts else pack_score(score)
        return packed_hit(item_id, fields, parts) + scores

    rest = REST.SerializeToString()
    answers = [b"".join(hit() for _ in range(random.randrange(12))) + rest for _ in range(60)]
    assert_read(answers)
    assert_read([rest, rest])
    assert_read([answers[0], b""])


def test_what_is_no_answer_is_refused() -> None:
    whole = packed_hit("item", {}) + pack_score(0.5)
    with pytest.raises(ValueError, match="cut off"):
        read_hits([whole, whole[:-1]])
    with pytest.raises(ValueError, match="do not begin with their ids"):
        read_hits([wire.SearchResponse(hits=[wire.Hit(score=1)]).SerializeToString()])
    with pytest.raises(ValueError, match="no score"):
        read_hits([wire.SearchResponse(hits=[wire.Hit(id="an item without any score")]).SerializeToString()])
