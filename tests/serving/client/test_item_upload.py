"""How a table is cut into batches."""

import pytest

from twinspire.serving.client import item_upload
from twinspire.serving.client.item_upload import _parts


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\u8449", "\U0001f3ee"])
def test_batches_are_bounded_by_bytes_and_not_by_characters(
    letter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_upload, "BATCH_BYTES", 1000)
    text = letter * -(-500 // len(letter.encode()))
    rows = iter([(n, {"item_id": f"{n}", "text": text}) for n in range(1, 8)])
    assert [len(part) for part in _parts(rows, 100)] == [2, 2, 2, 1]
    list(_parts(iter([(1, {"item_id": "1", "text": "\ud800"})]), 100))  # the client names what it cannot send
