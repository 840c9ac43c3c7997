"""`python -m tests.load gatewaytest`: figures of all servers, and answers that are compared."""

from pathlib import Path

import pytest

from tests.helpers.serving.shown import shown
from tests.load.measure_gateway import KINDS, show
from tests.load.plan import CLIENTS
from tests.serving.load.commands import document

pytestmark = pytest.mark.exhaustive


def test_it_measures_all_servers(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Long enough for an answer by each server where other tests take the cores.
    flags = ["--bundle", str(plain), "--rounds", "1", "--seconds", "1", "--k", "3"]
    found = document(capsys, "gatewaytest", *flags)
    for clients in CLIENTS:
        for kind in KINDS:
            assert found[f"{kind}_c{clients}_rps"] > 0
            assert found[f"{kind}_c{clients}_cpu_us"] > 0
        expected = found[f"gateway_c{clients}_rps"] / found[f"grpc_c{clients}_rps"]
        assert found[f"gateway_to_grpc_c{clients}"] == pytest.approx(expected, rel=1e-3)
    assert (found["errors"], found["content_different"]) == ({}, 0)
    assert found["content_checked"] > 0
    assert found["targets_missed"] == []  # no figure has a bound
    text = shown(show, found)
    assert all(f"{found[f'{kind}_c1_rps']:,.0f}" in text for kind in KINDS)
