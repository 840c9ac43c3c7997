"""`Score` sees live items and deletes as `Search` does."""

from pathlib import Path

import pytest

from tests.serving.live.test_live_server import ZOO, Host
from twinspire.serving.client import RetrievalClient


def test_live_items_have_scores_and_deleted_ones_have_none(plain: Path, tmp_path: Path) -> None:
    host = Host(plain, tmp_path)
    with host.server, RetrievalClient(host.server.address) as client:
        client.wait_ready()
        assert client.score(ZOO, ["new"]).items == (("new", None),)
        sequence = host.write("new", {"text": ZOO})
        found = client.score(ZOO, ["new", "item-001"], min_sequence=sequence)
        hit = client.search(ZOO, k=1, min_sequence=sequence).hits[0]
        assert hit.id == "new"
        assert hit.score == pytest.approx(found.items[0][1], abs=1e-6)
        assert found.sequence == sequence
        before = found.items[1][1]
        changed = host.write("item-001", {"text": ZOO})
        after = client.score(ZOO, ["item-001"], min_sequence=changed).items[0][1]
        assert after == pytest.approx(found.items[0][1], abs=1e-6) and after != before
        for item_id in ("new", "item-001"):
            gone = host.feed.put(item_id)
        host.encode()
        deleted = client.score(ZOO, ["new", "item-001", "item-002"], min_sequence=gone)
        assert [score is None for _, score in deleted.items] == [True, True, False]
