"""A graph is read as hnswlib would load it; a damaged one is refused, and never ends the process."""

import struct
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
import numpy.typing as npt
import pytest

from twinspire.protos.errors import BundleDamaged
from twinspire.serving.index.hnsw_file import FIELDS, HEADER, STEP, read_graph

Vectors = npt.NDArray[np.float32]

COUNT, DIMENSION, M = 300, 7, 3
ELEMENT = 4 + 4 * 2 * M + 4 * DIMENSION + 8  # bytes
LABEL = ELEMENT - 8  # where it is within an element
UPPER = HEADER.size + COUNT * ELEMENT  # where the upper links begin


def vectors_of(count: int, dimension: int, seed: int = 0) -> Vectors:
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)


def built(vectors: Vectors, m: int = 16, space: str = "ip", threads: int = 1) -> hnswlib.Index:
    graph = hnswlib.Index(space=space, dim=vectors.shape[1])
    graph.init_index(len(vectors), M=m, ef_construction=40, random_seed=0)
    graph.add_items(vectors, np.arange(len(vectors)), num_threads=threads)
    return graph


def saved(graph: hnswlib.Index, folder: Path) -> Path:
    path = folder / "index.hnsw"
    graph.save_index(str(path))
    return path


def loaded(path: Path, space: str, dimension: int) -> hnswlib.Index:
    graph = hnswlib.Index(space=space, dim=dimension)
    graph.load_index(str(path))
    return graph


def state(graph: hnswlib.Index) -> dict[str, Any]:
    """All that a graph consists of; labels in order, and without a seed that `load_index` never sets."""
    fields: dict[str, Any] = graph.__getstate__()[0]
    keys, places = fields.pop("label_lookup_external"), fields.pop("label_lookup_internal")
    del fields["seed"]
    return {**fields, "labels": dict(zip(keys.tolist(), places.tolist(), strict=True))}


def assert_same(path: Path, space: str, vectors: Vectors) -> hnswlib.Index:
    read, expected = (each(path, space, vectors.shape[1]) for each in (read_graph, loaded))
    found_state, expected_state = state(read), state(expected)
    assert found_state.keys() == expected_state.keys()
    for name, value in expected_state.items():
        np.testing.assert_array_equal(found_state[name], value, err_msg=name)
    queries = vectors_of(50, vectors.shape[1], seed=1)
    k = min(10, len(vectors) // 2 or 1)
    for graph in (read, expected):
        graph.set_ef(40)
    for found, value in zip(read.knn_query(queries, k), expected.knn_query(queries, k), strict=True):
        np.testing.assert_array_equal(found, value)
    return read


@pytest.mark.parametrize("m", [2, 16])
@pytest.mark.parametrize("count", [1, 2, 300, 5000])
@pytest.mark.parametrize("dimension", [3, 7, 16])
def test_a_graph_is_as_hnswlib_loads_it(tmp_path: Path, count: int, dimension: int, m: int) -> None:
    vectors = vectors_of(count, dimension)
    read = assert_same(saved(built(vectors, m), tmp_path), "ip", vectors)
    levels = read.__getstate__()[0]["element_levels"]
    assert levels.max() >= {1: 0, 2: 0, 300: 1, 5000: 2}[count]
    np.testing.assert_array_equal(read.get_items(np.arange(count), return_type="numpy"), vectors)


@pytest.mark.parametrize("space", ["l2", "cosine"])
def test_other_spaces(tmp_path: Path, space: str) -> None:
    vectors = vectors_of(300, 8)
    assert_same(saved(built(vectors, space=space), tmp_path), space, vectors)


def test_vectors_without_their_last_coordinate(tmp_path: Path) -> None:
    vectors = vectors_of(300, 8)
    vectors[:, -1] = 0
    assert_same(saved(built(vectors), tmp_path), "ip", vectors)


def test_labels_in_another_order_and_vectors_that_were_replaced(tmp_path: Path) -> None:
    vectors = vectors_of(5000, 8)
    graph = hnswlib.Index(space="ip", dim=8)
    graph.init_index(5000, M=4, ef_construction=40)
    order = np.random.default_rng(2).permutation(5000)
    graph.add_items(vectors[::-1], order, num_threads=2)
    graph.add_items(vectors[order], order, num_threads=2)  # links are given up
    read = assert_same(saved(graph, tmp_path), "ip", vectors)
    np.testing.assert_array_equal(read.get_items(np.arange(5000), return_type="numpy"), vectors)


def test_what_is_marked_as_deleted_stays_so(tmp_path: Path) -> None:
    vectors = vectors_of(300, 8)
    graph = built(vectors)
    for row in range(0, 300, 3):
        graph.mark_deleted(row)
    read = assert_same(saved(graph, tmp_path), "ip", vectors)
    assert (read.knn_query(vectors, 5)[0] % 3 > 0).all()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    graph = built(vectors_of(COUNT, DIMENSION), M)
    return saved(graph, tmp_path_factory.mktemp("whole")).read_bytes()


def refused(content: bytes, folder: Path, match: str, dimension: int = DIMENSION) -> None:
    path = folder / "index.hnsw"
    path.write_bytes(content)
    with pytest.raises(BundleDamaged, match=rf"index\.hnsw: {match}"):
        read_graph(path, "ip", dimension)


def header_of(content: bytes) -> dict[str, Any]:
    return dict(zip(FIELDS, HEADER.unpack_from(content), strict=True))


def with_header(content: bytes, **changed: Any) -> bytes:
    return HEADER.pack(*{**header_of(content), **changed}.values()) + content[HEADER.size :]


def with_word(content: bytes, at: int, word: int) -> bytes:
    return content[:at] + struct.pack("<I", word) + content[at + 4 :]


def upper_rows(content: bytes) -> dict[tuple[int, int], int]:
    """(element, level) -> where the row is, for each level above the lowest."""
    found: dict[tuple[int, int], int] = {}
    at = UPPER
    for element in range(COUNT):
        (length,) = struct.unpack_from("<I", content, at)
        rows = range(at + 4, at + 4 + length, 4 + 4 * M)
        found |= {(element, level): row for level, row in enumerate(rows, start=1)}
        at += 4 + length
    return found


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BundleDamaged, match=r"none\.hnsw: cannot be read: No such file"):
        read_graph(tmp_path / "none.hnsw", "ip", DIMENSION)
    with pytest.raises(BundleDamaged, match=r"cannot be read: Is a directory"):
        read_graph(tmp_path, "ip", DIMENSION)
    refused(b"", tmp_path, "")
    refused(b"not a graph", tmp_path, "11 bytes, expected a header of 96")
    refused(b"no" * 500, tmp_path, "M is ")
    refused(bytes(1000), tmp_path, "M is 0, expected 2 to 10000")


def test_a_graph_without_items(tmp_path: Path) -> None:
    graph = hnswlib.Index(space="ip", dim=DIMENSION)
    graph.init_index(10)
    refused(saved(graph, tmp_path).read_bytes(), tmp_path, "cur_element_count is 0")


def test_more_room_than_items(tmp_path: Path) -> None:
    graph = hnswlib.Index(space="ip", dim=DIMENSION)
    graph.init_index(10)
    graph.add_items(vectors_of(9, DIMENSION))
    refused(saved(graph, tmp_path).read_bytes(), tmp_path, "max_elements is 10, expected 9")


@pytest.mark.parametrize("dimension", [1, 6, 8, 700])
def test_another_dimension(whole: bytes, tmp_path: Path, dimension: int) -> None:
    refused(whole, tmp_path, f"size_data_per_element is {ELEMENT}, expected ", dimension)


def test_truncated_anywhere(whole: bytes, tmp_path: Path) -> None:
    bounds = {0, HEADER.size, HEADER.size + ELEMENT, UPPER, UPPER + 4, len(whole)}
    for length in {bound + n for bound in bounds for n in range(-5, 6)} | {*range(0, len(whole), 101)}:
        if 0 <= length < len(whole):
            refused(whole[:length], tmp_path, "")
    for extra in (1, 3, 4, 96):
        refused(whole + bytes(extra), tmp_path, "length in bytes")


@pytest.mark.exhaustive
def test_every_bit_of_the_header(whole: bytes, tmp_path: Path) -> None:
    for bit in range(8 * HEADER.size):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        before, after = header_of(whole), header_of(bytes(flipped))
        (name,) = [name for name in FIELDS if after[name] != before[name]]
        harmless = {
            "ef_construction": after["ef_construction"] >= M,  # nothing is added to the graph any more
            "mult": abs(after["mult"] / before["mult"] - 1) <= 1e-9,
        }
        if not harmless.get(name):
            refused(bytes(flipped), tmp_path, rf"({'|'.join(FIELDS)}|level of the enterpoint_node) is ")


@pytest.mark.parametrize(("name", "value"), [("mult", np.nan), ("mult", -1.0), ("ef_construction", M - 1)])
def test_a_parameter_that_cannot_be(whole: bytes, tmp_path: Path, name: str, value: float) -> None:
    refused(with_header(whole, **{name: value}), tmp_path, f"{name} is {value}, expected ")


def test_the_entry_point_is_on_the_highest_level(whole: bytes, tmp_path: Path) -> None:
    high = {element for element, _ in upper_rows(whole)}
    low = min({*range(COUNT)} - high)
    refused(with_header(whole, enterpoint_node=low), tmp_path, "level of the enterpoint_node is 0, expected ")
    both = with_header(whole, enterpoint_node=low, max_level=0)
    refused(both, tmp_path, f"max_level is 0, expected {header_of(whole)['max_level']}")


@pytest.mark.parametrize("element", [0, 1, COUNT - 1])
def test_links_of_an_element(whole: bytes, tmp_path: Path, element: int) -> None:
    at = HEADER.size + element * ELEMENT
    for number in (2 * M + 1, 0xFFFF, 1 << 17, 0xFFFFFFFF):
        refused(with_word(whole, at, number), tmp_path, f"number of links is .*, expected 0 to {2 * M}")
    for link in (COUNT, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        refused(with_word(whole, at + 4, link), tmp_path, f"link is {link}, expected 0 to {COUNT - 1}")


@pytest.mark.parametrize("element", [0, 1, COUNT - 1])
def test_labels(whole: bytes, tmp_path: Path, element: int) -> None:
    at = HEADER.size + element * ELEMENT + LABEL
    refused(with_word(whole, at, COUNT), tmp_path, f"label is {COUNT}, expected 0 to {COUNT - 1}")
    refused(with_word(whole, at + 4, 1), tmp_path, f"label is {2**32 + element}, expected ")
    refused(with_word(whole, at, 7), tmp_path, f"no element has the label {element}, so another ")


@pytest.mark.exhaustive
def test_upper_links(whole: bytes, tmp_path: Path) -> None:
    rows = upper_rows(whole)
    assert max(level for _, level in rows) >= 3
    low = min({*range(COUNT)} - {element for element, _ in rows})
    for (_, level), at in rows.items():
        (number,) = struct.unpack_from("<I", whole, at)
        refused(with_word(whole, at, M + 1), tmp_path, f"number of upper links is {M + 1}, expected 0 to {M}")
        refused(with_word(whole, at, 1 << 16), tmp_path, "number of upper links is ")
        if number:
            refused(with_word(whole, at + 4, COUNT), tmp_path, f"upper link is {COUNT}, expected ")
            refused(with_word(whole, at + 4, low), tmp_path, "an upper link leads to an element that is not")
        if number and level > 1:  # on a level of its own, but not on this one
            below = next(other for other, top in rows if (other, top + 1) not in rows and top == level - 1)
            refused(
                with_word(whole, at + 4, below), tmp_path, "an upper link leads to an element that is not"
            )
        if level == 1:
            for length in (1, 4, 0x7FFFFFFF, 0xFFFFFFFF):
                refused(
                    with_word(whole, at - 4, length), tmp_path, "length of upper links beyond whole levels"
                )
            refused(
                with_word(whole, at - 4, 4 * (1 + M) * (1 << 24)), tmp_path, "ends before|length in bytes"
            )


def test_the_last_of_many_elements(tmp_path: Path) -> None:
    count = STEP + 10
    content = saved(built(vectors_of(count, DIMENSION), M), tmp_path).read_bytes()
    last = HEADER.size + (count - 1) * ELEMENT
    refused(with_word(content, last + 4, count), tmp_path, f"link is {count}, expected 0 to {count - 1}")
    refused(with_word(content, last + LABEL, 0), tmp_path, f"no element has the label {count - 1}, so")


@pytest.mark.exhaustive
def test_whatever_is_damaged_a_search_ends(whole: bytes, tmp_path: Path) -> None:
    """A vector may be any; whatever else is odd is refused before hnswlib follows it out of its memory."""
    random, path = np.random.default_rng(0), tmp_path / "index.hnsw"
    queries = vectors_of(20, DIMENSION, seed=1)
    taken = 0
    for _ in range(1000):
        damaged = np.frombuffer(whole, np.uint8).copy()
        places = random.integers(len(whole), size=random.integers(1, 4))
        damaged[places] = random.integers(256, size=len(places))
        path.write_bytes(damaged.tobytes())
        try:
            graph = read_graph(path, "ip", DIMENSION)
        except BundleDamaged:
            continue
        taken += 1
        try:
            rows, _ = graph.knn_query(queries, 10, num_threads=1)
        except RuntimeError:  # fewer can be reached
            continue
        assert rows.max() < COUNT
    assert 100 < taken < 900
