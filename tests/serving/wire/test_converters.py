"""Messages as a client reads them."""

from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.filters.plan import Plan
from twinspire.serving.retrieval.answer import Basis
from twinspire.serving.wire.converters import answer_from_wire


def test_what_a_newer_server_names_is_unknown() -> None:
    found = wire.HitList.FromString(wire.HitList(plan=99, basis=98).SerializeToString())  # type: ignore[arg-type]
    answer = answer_from_wire(found, "v", wire.Timing(), 0, "")
    assert (answer.plan, answer.basis) == (Plan.UNKNOWN, Basis.UNKNOWN)
    assert not answer.basis.is_searched
