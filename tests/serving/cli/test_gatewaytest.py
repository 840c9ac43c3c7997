"""`python -m serving gatewaytest`: figures of all servers, and answers that are compared."""

import json
from pathlib import Path

import pytest

from serving.__main__ import main
from serving.benchmark.gateway_test import CLIENTS, KINDS

pytestmark = pytest.mark.exhaustive


def test_it_measures_all_servers_in_rounds(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--bundle", str(plain), "--rounds", "2", "--seconds", "0.2", "--k", "3"]
    assert main(["gatewaytest", *flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for kind in KINDS:
        for clients in CLIENTS:
            key = f"{kind}_c{clients}"
            assert found[f"{key}_rps"] > 0
            assert found[f"{key}_rps_min"] <= found[f"{key}_rps"] <= found[f"{key}_rps_max"]
            assert found[f"{key}_cpu_us"] > 0
    assert found["gateway_to_fastapi_c64_min"] > 0
    share = found["gateway_to_fastapi_cpu_c64"]
    low, high = (found[f"{kind}_c64_cpu_us_{end}"] for kind, end in (("fastapi", "min"), ("gateway", "max")))
    assert share >= low / high * 0.99
    assert (found["errors"], found["content_different"]) == ({}, 0)
    assert found["content_checked"] > 0
    missed = {
        f"gateway_to_fastapi_c{each}" for each in (16, 64) if found[f"gateway_to_fastapi_c{each}"] < 0.5
    }
    assert set(found["targets_missed"]) == missed


def test_a_bundle_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gatewaytest", "--bundle", str(tmp_path)]) == 1
    assert "holds no bundle" in capsys.readouterr().err
