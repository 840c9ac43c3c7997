"""Encodes windows of records as tasks on a Ray cluster.

    with windows_of("auto", console) as windows:
        encode_into(output, tower, records, console, "items", windows)

This process reads the records, sends each window to a task, and writes the vectors in the order of the
records, so the file is resumed as one that was written without Ray, and the nodes share no folder. Ray sends
the tower's files to each node once, and each worker process loads them once. A task whose node dies is run
again on another node. Every node needs this package with the extra `[ray]`; its code and the libraries in
`LIBRARIES` are compared with those of this process.
"""

import importlib.metadata
import logging
import signal
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from twinspire.export.encoding.encoding import (
    EncodeWindows,
    ItemTower,
    Vectors,
    check_count,
    encode_window,
    tower_identity,
    window_size,
)
from twinspire.export.encoding.records import WINDOW, Records, Values
from twinspire.export.onnx.runtimes import Encode, onnx_encoder
from twinspire.protos.errors import InvalidInput, PackageMissing, TwinspireError, Unavailable
from twinspire.protos.features import FeatureSpec, Side, TowerInputs
from twinspire.protos.names import DIGITS
from twinspire.train.fingerprint import fingerprint, source_fingerprint

EXTRA = "ray"
AHEAD = 2  # windows for each CPU of the cluster that are sent before the first of them is back
RETRIES = 10  # of a window whose node or worker process has died
CONNECT_SECONDS = 5.0  # to the head of the cluster
WAIT_SECONDS = 20.0  # between two looks at a cluster that may have lost all its nodes
LONGEST_ERROR = 500  # characters of an error of Ray
LIBRARIES = ("numpy", "onnxruntime", "tokenizers")  # vectors depend on their versions
ONNX = "item_tower.onnx"
CODE = "twinspire.export.encoding.encoding"  # the module that encodes


@dataclass(frozen=True)
class PortableTower:
    """A tower as it is sent to the nodes.

    Args:
        key: sha256 of the tower's files, features and vocabularies.
        versions: `_versions` of the sending process.
        side, features, vocabularies: of `TowerInputs`.
        files: relative path -> content, uint8; of the ONNX file and of the files that features read.
    """

    key: str
    versions: Mapping[str, str]
    side: Side
    features: Mapping[str, FeatureSpec]
    vocabularies: Mapping[str, Sequence[str]]
    files: Mapping[str, npt.NDArray[np.uint8]]


def windows_of(address: str, console: Console) -> AbstractContextManager[EncodeWindows | None]:
    """What encodes windows: None for this process, or the Ray cluster at an address.

    Args:
        address: `host:port` of the cluster's head, `auto` for the cluster that this machine is part of, or
            an empty text for this process.
        console: receives a message while the cluster has no CPU.

    Raises:
        PackageMissing: Ray is not installed.
        Unavailable: there is no such cluster, or it has another version of Ray or Python.
    """
    return ray_windows(address, console) if address else nullcontext()


@contextmanager
def ray_windows(address: str, console: Console) -> Iterator[EncodeWindows]:
    """Connect to a cluster within the block; arguments and errors as of `windows_of`."""
    try:
        import ray
    except ImportError:
        raise PackageMissing(f"--ray needs the package ray: pip install 'twinspire[{EXTRA}]'") from None
    _check_address(address)
    on_term = signal.getsignal(signal.SIGTERM)  # Ray replaces it
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise _no_cluster(address, error) from None
    except (
        RuntimeError,
        TimeoutError,
        ValueError,
        AssertionError,
    ) as error:  # another version of Ray
        raise Unavailable(f"--ray {address}: {_text(error)}") from None
    finally:
        signal.signal(signal.SIGTERM, on_term)
    try:
        with redirect_stdout(sys.stderr):  # Ray prints what happens to nodes, where a result is to stand
            yield partial(_encoded_windows, ray, console)
    except ray.exceptions.RayError as error:
        raise Unavailable(f"the Ray cluster fails: {_text(error)}; the same command goes on later") from None
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Refuse an address at which nothing listens; Ray would try it for a minute."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    try:
        if not host or "/" in host:
            raise ValueError("expected host:port, or auto")
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS):
            pass
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> Unavailable:
    return Unavailable(
        f"--ray {address}: no Ray cluster answers ({_text(error)}); `ray start --head` starts one"
    )


def _encoded_windows(
    ray: Any, console: Console, tower: ItemTower, records: Records, advance: Callable[[int], None], first: int
) -> Iterator[Vectors]:
    """As `EncodeWindows`, with some windows under way at the same time."""
    sent = ray.put(portable(tower))
    task = ray.remote(num_cpus=1, max_retries=RETRIES, scheduling_strategy="SPREAD")(encode_on_node)
    under_way: deque[tuple[int, Any]] = deque()

    def oldest() -> Vectors:
        size, window = under_way.popleft()
        vectors = _result(ray, console, window)
        advance(size)
        return vectors

    begin = first
    for values in records.slices(WINDOW, first):
        size = window_size(values)
        under_way.append((size, task.remote(sent, values, begin, records.name)))
        begin += size
        while len(under_way) > AHEAD * max(1.0, _cpus(ray)):
            yield oldest()
    while under_way:
        yield oldest()
    check_count(records, begin)


def _result(ray: Any, console: Console, window: Any) -> Vectors:
    """The vectors of a window, once they are there.

    Raises:
        InvalidInput: as `encode_window`.
        Unavailable: a node cannot encode; the text says why.
        ray.exceptions.RayError: the window was lost more than `RETRIES` times, or the cluster fails.
    """
    is_told = False
    while not ray.wait([window], timeout=WAIT_SECONDS)[0]:
        if not _cpus(ray) and not is_told:
            console.print("the Ray cluster has no CPU; waiting for a node")
            is_told = True
    try:
        found = ray.get(window)
    except ray.exceptions.RayTaskError as error:
        # A node without this package has a traceback as its text, whose last line names what is missing.
        text = _text(error.cause) if isinstance(error.cause, TwinspireError) else f"{error}".strip()
        raise Unavailable(f"a node of the Ray cluster cannot encode: {text.splitlines()[-1]}") from None
    if isinstance(found, tuple):
        raise InvalidInput(*found)
    vectors: Vectors = found
    return vectors


def _cpus(ray: Any) -> float:
    return float(ray.cluster_resources().get("CPU", 0))


def _text(error: BaseException) -> str:
    """An error's text in one line."""
    return " ".join(f"{error}".split())[:LONGEST_ERROR] or type(error).__name__


def portable(tower: ItemTower) -> PortableTower:
    """A tower with all that a node needs to run it."""
    inputs = tower.inputs
    keys = {name: spec.vocabulary_key(inputs.side, name) for name, spec in inputs.features.items()}
    names = [name for spec in inputs.features.values() for name in spec.files()]
    files = dict(zip(names, inputs.files, strict=True)) | {ONNX: tower.file}
    return PortableTower(
        fingerprint(tower_identity(tower)),
        _versions(),
        inputs.side,
        inputs.features,
        {key: inputs.known(name) for name, key in keys.items() if key is not None},
        {name: np.fromfile(path, np.uint8) for name, path in files.items()},
    )


def encode_on_node(tower: PortableTower, values: Values, begin: int, name: str) -> Vectors | tuple[str, str]:
    """Encode a window in a worker process of Ray; arguments as of `encode_window`.

    Returns:
        The vectors (n, D), or field and reason of an `InvalidInput`.

    Raises:
        Unavailable: the node has other code or libraries.
    """
    encode, inputs = _loaded(tower)
    try:
        return encode_window(encode, inputs, values, begin, name, lambda _: None)
    except InvalidInput as error:
        return error.field, error.reason


_KEPT: dict[str, tuple[Encode, TowerInputs]] = {}  # of this worker process; holds one tower


def _loaded(tower: PortableTower) -> tuple[Encode, TowerInputs]:
    if tower.key not in _KEPT:
        _check_versions(tower.versions)
        with tempfile.TemporaryDirectory(prefix="twinspire-") as folder:  # read whole when it is loaded
            for name, content in tower.files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                content.tofile(path)
            inputs = TowerInputs(tower.side, tower.features, tower.vocabularies, Path(folder))
            encode = onnx_encoder(Path(folder, ONNX), threads=1)
        _KEPT.clear()
        _KEPT[tower.key] = encode, inputs
    return _KEPT[tower.key]


def _check_versions(sent: Mapping[str, str]) -> None:
    for name, own in _versions().items():
        if name in sent and sent[name] != own:
            raise Unavailable(f"it has {name} {own}, and the process that sends has {sent[name]}")


def _versions() -> dict[str, str]:
    """Version of each library of `LIBRARIES` that is installed, and a hash of the code that encodes."""
    found = {"twinspire": source_fingerprint(CODE)[:DIGITS]}
    for name in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
