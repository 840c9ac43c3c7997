"""The links of hnswlib's file are read; damaged ones are refused, and never end the process."""

import struct
from pathlib import Path

import hnswlib
import numpy as np
import numpy.typing as npt
import pytest

from twinspire.protos.errors import BundleDamaged
from twinspire.protos.nearest.coded_vectors import CodedVectors
from twinspire.protos.nearest.links import (
    HEADER,
    NO_LINK,
    STEP,
    Links,
    open_dead_ends,
    read_hnswlib,
    read_links,
)

Vectors = npt.NDArray[np.float32]

COUNT, DIMENSION, M = 300, 7, 3
ELEMENT = 4 + 4 * 2 * M + 4 * DIMENSION + 8  # bytes
LABEL = ELEMENT - 8  # where it is within an element
UPPER = HEADER.size + COUNT * ELEMENT  # where the upper links begin, which are not read


def vectors_of(count: int, dimension: int, seed: int = 0) -> Vectors:
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)


def built(vectors: Vectors, m: int = 16, labels: npt.NDArray[np.int64] | None = None) -> hnswlib.Index:
    graph = hnswlib.Index(space="ip", dim=vectors.shape[1])
    graph.init_index(len(vectors), M=m, ef_construction=40, random_seed=0)
    graph.add_items(vectors, np.arange(len(vectors)) if labels is None else labels, num_threads=1)
    return graph


def saved(graph: hnswlib.Index, folder: Path) -> Path:
    path = folder / "index.hnsw"
    graph.save_index(str(path))
    return path


def links_of(graph: hnswlib.Index) -> list[set[int]]:
    """The links of each row, as hnswlib's own state has them."""
    state = graph.__getstate__()[0]
    elements = state["data_level0"].view(np.uint8).reshape(len(state["element_levels"]), -1)
    words = np.ascontiguousarray(elements[:, : state["offset_data"]]).view(np.uint32)
    labels = np.empty(len(elements), np.int64)
    labels[state["label_lookup_internal"]] = state["label_lookup_external"]
    found: list[set[int]] = [set()] * len(elements)
    for label, (number, *links) in zip(labels.tolist(), words.tolist(), strict=True):
        found[label] = {int(labels[link]) for link in links[: number & 0xFFFF]}
    return found


def as_sets(links: Links) -> list[set[int]]:
    return [{*each[each != NO_LINK].tolist()} for each in links]


@pytest.mark.parametrize("m", [2, 16])
@pytest.mark.parametrize("count", [1, 2, 300, 5000])
def test_the_links_are_those_of_hnswlib(tmp_path: Path, count: int, m: int) -> None:
    graph = built(vectors_of(count, 7), m)
    links = read_hnswlib(saved(graph, tmp_path), 7)
    assert links.shape == (count, 2 * m)
    assert as_sets(links) == links_of(graph)
    for own in links:  # unused places are at the end
        assert (own[(own != NO_LINK).sum() :] == NO_LINK).all()


def test_labels_in_another_order_and_vectors_that_were_replaced(tmp_path: Path) -> None:
    vectors = vectors_of(5000, 8)
    order = np.random.default_rng(2).permutation(5000)
    graph = built(vectors[::-1].copy(), 8, order)
    graph.add_items(vectors[order], order, num_threads=1)  # links are given up
    links = read_hnswlib(saved(graph, tmp_path), 8)
    assert as_sets(links) == links_of(graph)
    found = CodedVectors(vectors, links=links).search(vectors[:200], 1, 100)[0][:, 0]
    assert (np.einsum("nd,nd->n", vectors[found], vectors[:200]) >= (vectors[:200] ** 2).sum(1) - 1e-3).all()


def test_a_search_goes_on_from_every_item(tmp_path: Path) -> None:
    """Earlier versions attached copies of a vector without a link back."""
    links = np.full((6, 3), NO_LINK, np.uint32)
    for row, own in enumerate([[1, 2, 3], [0, 2], [0], [4, 5], [], []]):  # 3 to 5 are copies
        links[row, : len(own)] = own
    opened = as_sets(open_dead_ends(links))
    assert opened == [{1, 2, 3}, {0, 2}, {0}, {0, 4, 5}, {3}, {3}]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return saved(built(vectors_of(COUNT, DIMENSION), M), tmp_path_factory.mktemp("whole")).read_bytes()


def refused(content: bytes, folder: Path, match: str, dimension: int = DIMENSION) -> None:
    path = folder / "index.hnsw"
    path.write_bytes(content)
    with pytest.raises(BundleDamaged, match=rf"index\.hnsw: {match}"):
        read_hnswlib(path, dimension)


def with_word(content: bytes, at: int, word: int) -> bytes:
    return content[:at] + struct.pack("<I", word) + content[at + 4 :]


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BundleDamaged, match=r"none\.hnsw: cannot be read: No such file"):
        read_hnswlib(tmp_path / "none.hnsw", DIMENSION)
    with pytest.raises(BundleDamaged, match=r"cannot be read: Is a directory"):
        read_hnswlib(tmp_path, DIMENSION)
    refused(b"", tmp_path, "0 bytes, expected a header of 96")
    refused(b"not a graph", tmp_path, "11 bytes, expected a header of 96")
    refused(b"no" * 500, tmp_path, "max_M0 is ")
    refused(bytes(1000), tmp_path, "max_M0 is 0, expected 1 to 20000")
    graph = hnswlib.Index(space="ip", dim=DIMENSION)
    graph.init_index(10)
    refused(saved(graph, tmp_path).read_bytes(), tmp_path, "cur_element_count is 0")


@pytest.mark.parametrize("dimension", [1, 6, 8, 700])
def test_another_dimension(whole: bytes, tmp_path: Path, dimension: int) -> None:
    refused(whole, tmp_path, f"size_data_per_element is {ELEMENT}, expected ", dimension)


def test_truncated_anywhere_in_what_is_read(whole: bytes, tmp_path: Path) -> None:
    for length in {*range(0, 100), *range(0, UPPER, 101), UPPER - 1}:
        refused(whole[:length], tmp_path, "")


@pytest.mark.parametrize("element", [0, 1, COUNT - 1])
def test_links_of_an_element(whole: bytes, tmp_path: Path, element: int) -> None:
    at = HEADER.size + element * ELEMENT
    for number in (2 * M + 1, 0xFFFF):
        refused(with_word(whole, at, number), tmp_path, f"number of links is .*, expected 0 to {2 * M}")
    for link in (COUNT, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        refused(with_word(whole, at + 4, link), tmp_path, f"link is {link}, expected 0 to {COUNT - 1}")


@pytest.mark.parametrize("element", [0, 1, COUNT - 1])
def test_labels(whole: bytes, tmp_path: Path, element: int) -> None:
    at = HEADER.size + element * ELEMENT + LABEL
    refused(with_word(whole, at, COUNT), tmp_path, f"label is {COUNT}, expected 0 to {COUNT - 1}")
    refused(with_word(whole, at + 4, 1), tmp_path, f"label is {2**32 + element}, expected ")
    refused(with_word(whole, at, 7), tmp_path, f"no element has the label {element}, so another ")


def test_the_last_of_many_elements(tmp_path: Path) -> None:
    count = STEP + 10
    content = saved(built(vectors_of(count, DIMENSION), M), tmp_path).read_bytes()
    last = HEADER.size + (count - 1) * ELEMENT
    refused(with_word(content, last + 4, count), tmp_path, f"link is {count}, expected 0 to {count - 1}")
    refused(with_word(content, last + LABEL, 0), tmp_path, f"no element has the label {count - 1}, so")


@pytest.mark.exhaustive
def test_whatever_is_damaged_a_search_ends(whole: bytes, tmp_path: Path) -> None:
    random, path = np.random.default_rng(0), tmp_path / "index.hnsw"
    vectors, queries = vectors_of(COUNT, DIMENSION), vectors_of(20, DIMENSION, seed=1)
    taken = 0
    for _ in range(1000):
        damaged = np.frombuffer(whole, np.uint8).copy()
        places = random.integers(len(whole), size=random.integers(1, 4))
        damaged[places] = random.integers(256, size=len(places))
        path.write_bytes(damaged.tobytes())
        try:
            links = read_hnswlib(path, DIMENSION)
        except BundleDamaged:
            continue
        taken += 1
        assert CodedVectors(vectors, links=links).search(queries, 10, 20)[0].max() < COUNT
    assert 100 < taken < 950


def test_links_are_mapped_as_they_were_written(tmp_path: Path) -> None:
    links = read_hnswlib(saved(built(vectors_of(STEP + 10, DIMENSION), M), tmp_path), DIMENSION)
    np.save(tmp_path / "links.npy", links)
    np.testing.assert_array_equal(read_links(tmp_path / "links.npy", STEP + 10), links)


def test_links_that_lead_to_no_item_are_refused(tmp_path: Path) -> None:
    path, links = tmp_path / "links.npy", np.zeros((STEP + 10, 4), np.uint32)
    links[-1, -1] = STEP + 10
    np.save(path, links)
    with pytest.raises(BundleDamaged, match=rf"links\.npy: a link to item {STEP + 10}, expected 0 to "):
        read_links(path, STEP + 10)
    with pytest.raises(BundleDamaged, match=r"links\.npy: not an array: uint32"):
        read_links(path, STEP + 11)
    np.save(path, links.astype(np.int64))
    with pytest.raises(BundleDamaged, match=r"links\.npy: not an array: int64"):
        read_links(path, STEP + 10)
    path.unlink()
    with pytest.raises(BundleDamaged, match=r"links\.npy: missing"):
        read_links(path, STEP + 10)
