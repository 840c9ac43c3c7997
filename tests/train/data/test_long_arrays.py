"""Arrays that are made piece by piece, in memory or in files."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinspire.train import paths
from twinspire.train.data import long_arrays
from twinspire.train.data.long_arrays import ArrayWriter, bincount, gather, is_ascending, pieces

NUMBERS = st.lists(st.integers(0, 5), max_size=12)


@pytest.mark.parametrize("large", [0, 20, 1000])  # bytes
def test_a_written_array_holds_its_pieces_and_leaves_no_file(
    large: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_arrays, "LARGE", large)
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    writer = ArrayWriter(np.int32)
    for piece in ([1, 2, 3], [], [4], [5, 6, 7, 8]):
        writer.append(np.array(piece, np.int64))
    found = writer.finish()
    assert found.dtype == np.int32
    assert found.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    found[0] = 9  # as of any array
    assert found[0] == 9
    assert (tmp_path / "cache").is_dir() == (large < 32)
    assert not [*tmp_path.glob("cache/*")]


def test_an_array_without_pieces_is_empty() -> None:
    assert ArrayWriter(np.float64).finish().tolist() == []


@given(NUMBERS, st.integers(1, 5))
def test_what_is_found_in_pieces_is_that_of_the_whole(numbers: list[int], piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_arrays, "PIECE", piece)
        values = np.array(numbers, np.int32)
        assert np.concatenate([values[:0], *pieces(values)]).tolist() == numbers
        assert gather(np.arange(6) * 2, values).tolist() == [2 * n for n in numbers]
        assert bincount(values, 6).tolist() == [numbers.count(n) for n in range(6)]
        assert is_ascending(values) == (numbers == sorted(numbers))
        assert is_ascending(values, strictly=True) == (numbers == sorted(set(numbers)))
