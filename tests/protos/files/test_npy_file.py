"""Arrays from `.npy` files: a header that lies is a damaged file, whatever NumPy would make of it."""

import contextlib
import random
from pathlib import Path

import numpy as np
import pytest

from twinspire.protos.errors import BundleDamaged
from twinspire.protos.files.npy_file import map_array


def written(path: Path, header: str, content: bytes = bytes(16), version: bytes = b"\x01\x00") -> Path:
    """A file with this header."""
    text = header.encode("latin1").ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + content)
    return path


def header(shape: str, descr: str = "'<f4'", fortran: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


def test_an_array_is_mapped_as_it_was_saved(tmp_path: Path) -> None:
    for shape in ((4,), (2, 3), (0, 3), ()):
        saved = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
        np.save(tmp_path / "a.npy", saved)
        found = map_array(tmp_path / "a.npy", np.float32, shape)
        np.testing.assert_array_equal(found, saved)
        assert found.shape == shape
        assert map_array(tmp_path / "a.npy", "<f4", [None] * len(shape)).shape == shape
        with (tmp_path / "a.npy").open("rb") as file:
            found = map_array(tmp_path / "other", np.float32, shape, file)
        np.testing.assert_array_equal(found, saved)


@pytest.mark.parametrize(
    "text",
    [
        header("(-1,)"),
        header("(-2, -2)"),
        header("(-4611686018427387904,)"),
        header("(9223372036854775808,)"),
        header("(1099511627776, 1099511627776)"),
        header("(True,)"),
        header("(1.5,)"),
        header("('a',)"),
        header("4"),
        header("(5,)"),
        header("()"),
        header("(4,)", "'|O'"),
        header("(4,)", "'<f8'"),
        header("(4,)", "'<f0'"),
        header("(4,)", "'|V0'"),
        header("(4,)", "'nonsense'"),
        header("(2, 2)", fortran="True"),
        "{'descr': '<f4'}",
        "(" * 100,
        "",
    ],
)
def test_a_header_that_lies_is_a_damaged_file(tmp_path: Path, text: str) -> None:
    path = written(tmp_path / "a.npy", text)
    for shape in ((None,), (None, None)):
        with pytest.raises(BundleDamaged, match=r"a\.npy: not an array: "):
            map_array(path, np.float32, shape)


def test_a_missing_file_a_folder_and_an_archive_are_damaged(tmp_path: Path) -> None:
    with pytest.raises(BundleDamaged, match=r"a\.npy: missing"):
        map_array(tmp_path / "a.npy", np.float32, (4,))
    with pytest.raises(BundleDamaged, match="not an array: "):
        map_array(tmp_path, np.float32, (4,))
    np.savez(tmp_path / "a.npz", a=np.zeros(4, np.float32))
    with pytest.raises(BundleDamaged, match="not an array: "):
        map_array(tmp_path / "a.npz", np.float32, (4,))
    for content in (b"", b"hello\n", written(tmp_path / "a.npy", header("(4,)")).read_bytes()[:40]):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(BundleDamaged, match="not an array: "):
            map_array(tmp_path / "a.npy", np.float32, (4,))
    with pytest.raises(BundleDamaged, match=r"version \(3, 0\) of the format"):
        map_array(written(tmp_path / "a.npy", header("(4,)"), version=b"\x03\x00"), np.float32, (4,))


@pytest.mark.exhaustive
def test_a_file_with_any_bytes_changed_is_mapped_or_damaged(tmp_path: Path) -> None:
    whole = written(tmp_path / "a.npy", header("(4,)")).read_bytes()
    draw = random.Random(0)
    for _ in range(5000):
        changed = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            changed[draw.randrange(len(changed) - 16)] = draw.randrange(256)
        (tmp_path / "a.npy").write_bytes(changed)
        with contextlib.suppress(BundleDamaged):
            assert map_array(tmp_path / "a.npy", np.float32, (None,)).dtype == np.float32
