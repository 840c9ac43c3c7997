"""Every error has a gRPC status and comes back from it; messages of newer servers are read."""

import inspect

import pytest

from twinspire.protos import errors
from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.filters.plan import Plan
from twinspire.serving.retrieval.answer import Basis
from twinspire.serving.wire.converters import answer_from_wire
from twinspire.serving.wire.status import CODES, Code, status

CLASSES = [each for _, each in inspect.getmembers(errors, inspect.isclass)]


def test_every_error_is_mapped() -> None:
    assert set(CODES) == set(CLASSES)


def test_only_what_the_client_may_know_is_said() -> None:
    code, text = status(errors.InvalidInput("k", "expected at most 5, got 6"))
    assert (code, text) == (Code.INVALID_ARGUMENT, "k: expected at most 5, got 6")


@pytest.mark.parametrize("error", [errors.BundleDamaged("/secret/path"), OSError("/secret/path")])
def test_the_rest_is_an_id(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    code, text = status(error)
    assert code is Code.INTERNAL
    assert "secret" not in text
    assert text.rpartition(" ")[2] in caplog.records[-1].getMessage()


def test_a_text_fits_into_the_trailers() -> None:
    for error in (
        errors.InvalidInput("日" * 10_000, "語" * 10_000),
        errors.Unavailable("語" * 10_000),
    ):
        _, text = status(error)
        assert text.endswith("語…")
        assert len(text.encode()) * 3 < 8192  # gRPC escapes each byte


def test_what_a_newer_server_names_is_unknown() -> None:
    found = wire.HitList.FromString(wire.HitList(plan=99, basis=98).SerializeToString())  # type: ignore[arg-type]
    answer = answer_from_wire(found, "v", wire.Timing(), 0, "")
    assert (answer.plan, answer.basis) == (Plan.UNKNOWN, Basis.UNKNOWN)
    assert not answer.basis.is_searched
