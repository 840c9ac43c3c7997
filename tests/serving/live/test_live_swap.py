"""Models change under live items: each answer is that of some state of the store.

Swaps while processes are killed are in `tests/serving/load/test_livetest.py`.
"""

from contextlib import closing
from pathlib import Path

import pytest

from tests.helpers.serving.faulty import TwoBundles
from tests.helpers.waiting import wait_until
from tests.load.live import history
from tests.load.live.items import ItemMaker, shared_ids
from tests.load.live.traffic import Operations, Traffic
from twinspire.protos import bundle

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.exhaustive,
    pytest.mark.quiet,
    pytest.mark.timeout(300),
]

CHECKS, WRITES = 300, 20  # searches and writes between two changes


def test_models_change_under_live_items(tmp_path: Path, empty_store: Path) -> None:
    scene = TwoBundles(tmp_path, empty_store, "--catalogue", f"sqlite:///{tmp_path}/items.db")
    service, (first, second) = scene.service, scene.bundles
    operations, base_ids = Operations(0), shared_ids(scene.bundles, 100)
    maker = ItemMaker(bundle.read_manifest(first))
    traffic = Traffic([service.told["address"]], maker, base_ids, operations, 4, 300, 0)

    def go_on(*bundles: Path) -> None:
        """Wait for more writes, and for more answers from each of these bundles."""
        traffic.versions.clear()
        searched, written = len(traffic.seen) + CHECKS, len(traffic.writes) + WRITES

        def is_enough() -> bool:
            traffic.check()
            is_more = len(traffic.seen) > searched and len(traffic.writes) > written
            return is_more and {each[:12] for each in traffic.versions} >= {each.name for each in bundles}

        wait_until(is_enough, 90, service.log)

    with closing(scene), traffic:
        go_on(first)
        scene.versions.point("2", "challenger")
        wait_until(lambda: len(service.state()["bundles"]) == 2, 90, service.log)
        go_on(first, second)
        wait_until(lambda: not service.state()["shadow"]["last_error"], 60, service.log)
        wait_until(lambda: service.state()["shadow"]["queries"] > 20, 60, service.log)
        assert service.state()["shadow"]["errors"] == 0
        for version, served in (("2", second), ("1", first)):  # the second is a rollback
            scene.versions.point(version)
            wait_until(lambda version=version: service.served() == version, 90, service.log)  # type: ignore[misc]
            go_on(served)
        assert service.state()["following"]["failures"] == 0
        operations.release()
    verdict = history.check(traffic.writes, traffic.seen, 200 - len(base_ids))
    assert {name: verdict.found[name] for name in history.VIOLATIONS if verdict.found[name]} == {}
    assert verdict.own_first > 0.98 * verdict.own > 100
