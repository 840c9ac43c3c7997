"""Validation of bundles: a good one is measured, a bad one harms nothing, a large one is not even loaded."""

import contextlib
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.helpers.altered import altered, swell
from tests.helpers.serving.following import reseal
from tests.helpers.tiny import build_links, item_names, tiny_bundle
from tests.helpers.vector_databases import ENGINES, NOWHERE, Engine
from twinspire.protos import bundle, entry_points
from twinspire.protos.errors import BundleDamaged, Unavailable
from twinspire.serving.rollout import bundle_validation
from twinspire.serving.rollout.bundle_validation import MIB
from twinspire.serving.rollout.loaded_bundle import LoadedBundle
from twinspire.serving.segments.shared_catalogue import MappedCatalogue, open_catalogue

GIB = 1 << 30


def test_a_good_bundle_tells_how_long_it_takes(watched: Path) -> None:
    assert bundle_validation.validate_bundle(watched, item_tower=True) > 0


@pytest.mark.exhaustive
def test_a_bundle_that_passes_leaves_its_catalogue_ready(plain: Path, tmp_path: Path) -> None:
    place, manifest = tmp_path / "ready" / plain.name, bundle.read(plain)
    for _ in range(2):
        assert bundle_validation.validate_bundle(plain, ready=place) > 0
        assert type(open_catalogue(place, plain, manifest)) is MappedCatalogue
    broken = tiny_bundle(tmp_path, examples=({"colour": "red"},))
    with pytest.raises(BundleDamaged):
        bundle_validation.validate_bundle(broken, ready=tmp_path / "ready" / broken.name)
    assert [each.name for each in place.parent.iterdir()] == [plain.name]


def test_a_catalogue_that_cannot_be_made_ready_is_no_fault_of_the_bundle(
    plain: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert bundle_validation.validate_bundle(plain, ready=tmp_path / "file" / plain.name) > 0
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"{plain.name}: no catalogue is made ready in" in record.getMessage()


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_a_server_of_the_index_that_is_down_is_no_fault_of_the_bundle(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(engine.variable, NOWHERE[engine.kind])
    folder = tiny_bundle(tmp_path, 20, index=engine.index())
    failed = rf"{folder.name}: the validation failed: .* \({engine.variable}\) does not answer"
    with pytest.raises(Unavailable, match=failed):
        bundle_validation.validate_bundle(folder)


def test_a_graph_that_ends_in_the_middle_is_refused_whatever_it_does(plain: Path, tmp_path: Path) -> None:
    content = (plain / bundle.LINKS).read_bytes()
    broken = reseal(plain, tmp_path, _writes(bundle.LINKS, content[:96] + b"\xff" * 5000))
    with pytest.raises(BundleDamaged, match=broken.name) as caught:
        bundle_validation.validate_bundle(broken)
    assert str(tmp_path) not in str(caught.value)


def _writes(name: str, content: bytes) -> Callable[[Path], None]:
    """What puts another content into one file of a folder."""
    return lambda folder: _write(folder / name, content)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def test_a_tower_that_is_no_tower_is_refused(plain: Path, tmp_path: Path) -> None:
    broken = reseal(plain, tmp_path, _writes(bundle.QUERY_TOWER, b"no tower"))
    with pytest.raises(BundleDamaged, match="not an ONNX model"):
        bundle_validation.validate_bundle(broken)


def test_an_item_tower_is_tried_where_it_is_offered(plain: Path, tmp_path: Path) -> None:
    broken = reseal(plain, tmp_path, _writes(bundle.ITEM_TOWER, b"no tower"))
    assert bundle_validation.validate_bundle(broken) > 0
    with pytest.raises(BundleDamaged, match="not an ONNX model"):
        bundle_validation.validate_bundle(broken, item_tower=True)


def test_examples_beyond_those_of_the_warm_up_are_asked_too(tmp_path: Path) -> None:
    good = [{"text": name} for name in item_names(10)]
    bad = tiny_bundle(tmp_path, examples=(*good, {"colour": "red"}))
    with pytest.raises(BundleDamaged, match=r"answering its own examples failed: .*unknown feature"):
        bundle_validation.validate_bundle(bad)


def test_a_process_that_is_killed_is_a_refusal() -> None:
    for number, reason in ((9, "SIGKILL, most likely out of memory"), (11, "SIGSEGV")):
        process = started(f"import os; os.kill(os.getpid(), {number})")
        code, _, _ = bundle_validation._await(process, 60, None)
        assert bundle_validation._reason(code, "", 60) == f"the validation was ended by {reason}"


def started(code: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_trial_that_does_not_end_is_ended(plain: Path) -> None:
    process = started("import time; time.sleep(600)")
    assert bundle_validation._await(process, 0.2, None)[0] is None
    assert process.returncode == -9
    stop = threading.Event()
    stop.set()
    with pytest.raises(Unavailable, match="the validation was stopped"):
        bundle_validation.validate_bundle(plain, stop=stop)


@pytest.mark.parametrize(("ends", "code"), [("os._exit(3)", 3), ("os.kill(os.getpid(), 9)", -9), ("", None)])
def test_a_process_that_the_trial_leaves_behind_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, ends: str, code: int | None
) -> None:
    monkeypatch.setattr(bundle_validation, "OUTPUT_SECONDS", 0.2)
    process = started(
        "import os, time; child = os.fork(); child and print(child, flush=True)\n"
        f"if child: {ends or 'pass'}\n"
        "time.sleep(600)"
    )
    begun = time.monotonic()
    found, output, _ = bundle_validation._await(process, 2, None)
    os.kill(int(output), signal.SIGKILL)
    assert (found, time.monotonic() - begun < 20) == (code, True)


@pytest.mark.parametrize("printed", ["", "[]", "{}", '{"load_s": null}'])
def test_a_trial_without_a_result_is_a_refusal(
    plain: Path, monkeypatch: pytest.MonkeyPatch, printed: str
) -> None:
    command = [sys.executable, "-c", f"print({printed!r})"]
    monkeypatch.setattr(entry_points, "command", lambda *_: command)
    with pytest.raises(BundleDamaged, match=f"{plain.name}: the validation printed no result"):
        bundle_validation.validate_bundle(plain)


def test_a_trial_that_a_signal_ends_together_with_the_service_is_no_fault_of_the_bundle(plain: Path) -> None:
    stop = threading.Event()

    def signal_group() -> None:
        """SIGTERM for the trial first, and a moment later for the service."""
        children: list[psutil.Process] = []
        while not children:
            for each in psutil.Process().children():
                with contextlib.suppress(psutil.Error):  # a child of another test that has ended
                    if "bundle_validation" in " ".join(each.cmdline()):
                        children.append(each)
        children[0].terminate()
        time.sleep(0.2)
        stop.set()

    sender = threading.Thread(target=signal_group)
    sender.start()
    with pytest.raises(Unavailable, match="the validation was stopped"):
        bundle_validation.validate_bundle(plain, stop=stop)
    sender.join()


def leaving(memory: int) -> int:
    """A number of workers for which the machine leaves about `memory` bytes each."""
    return bundle_validation.available() // memory


def test_a_limit_of_the_control_group_counts(tmp_path: Path) -> None:
    groups, membership = tmp_path / "groups", tmp_path / "membership"
    inner = groups / "outer" / "inner"
    inner.mkdir(parents=True)
    membership.write_text("0::/outer/inner\n")
    free = bundle_validation.available(groups, membership)
    assert free > 100 * MIB

    def limit(folder: Path, most: str, used: int, droppable: int) -> None:
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {droppable}\n")

    limit(inner, "max", 50 * MIB, 0)
    limit(inner.parent, str(60 * MIB), 50 * MIB, 7 * MIB)
    assert bundle_validation.available(groups, membership) == 17 * MIB
    limit(inner, str(40 * MIB), 50 * MIB, 0)
    assert bundle_validation.available(groups, membership) == 0


@pytest.mark.parametrize("length", [0.0, 0.5])
def test_vectors_that_are_zero_or_not_of_unit_length_are_refused(
    plain: Path, tmp_path: Path, length: float
) -> None:
    def scale(folder: Path) -> None:
        vectors = np.load(folder / bundle.VECTORS)
        scaled = np.zeros_like(vectors) if length == 0 else vectors * np.float32(length)
        np.save(folder / bundle.VECTORS, scaled)
        (folder / bundle.LINKS).unlink()
        np.save(folder / bundle.LINKS, build_links(scaled))

    broken = reseal(plain, tmp_path, scale)
    expected = "all vectors are zero" if length == 0 else "row 0 has length "
    with pytest.raises(BundleDamaged, match=expected):
        bundle_validation.validate_bundle(broken)


@pytest.mark.exhaustive
def test_a_query_tower_that_gives_only_zeros_is_refused(plain: Path, tmp_path: Path) -> None:
    silent = reseal(plain, tmp_path, lambda folder: None, examples=({"text": ""}, {"text": " "}))
    with pytest.raises(BundleDamaged, match="the query tower gives the zero vector for all examples"):
        bundle_validation.validate_bundle(silent)
    half = reseal(plain, tmp_path, lambda folder: None, examples=({"text": ""}, {"text": "xelike"}))
    assert bundle_validation.validate_bundle(half) > 0


def test_a_query_tower_that_takes_more_memory_than_there_is_is_refused(plain: Path, tmp_path: Path) -> None:
    greedy = altered(plain, tmp_path, lambda folder: swell(folder, 8 * GIB))
    with pytest.raises(Unavailable, match=r"of the longest queries takes more memory than .*8,192 MiB"):
        bundle_validation.validate_bundle(greedy, copies=leaving(GIB))
    assert bundle_validation.validate_bundle(plain, item_tower=True, copies=leaving(GIB)) > 0


@pytest.mark.parametrize("step", ["load", "_ask"])
def test_each_step_is_bounded(plain: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.setattr(logging, "disable", lambda level: None)
    place = LoadedBundle if step == "load" else bundle_validation
    monkeypatch.setattr(place, step, lambda *given, **named: bytearray(GIB))
    before = resource.getrlimit(resource.RLIMIT_DATA)
    what = "loading it" if step == "load" else "examples"
    with pytest.raises(Unavailable, match=f"{what} takes more memory than the 512 MiB that the machine"):
        bundle_validation._try(plain, False, None, GIB // 2)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
