"""Names that were removed are refused with what to use instead; towers of earlier runs are still read."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.stdlib import write_toml
from twinspire.protos.errors import ConfigError
from twinspire.train.config import read_experiment
from twinspire.train.config.removed import AS_NOW, BESIDE_TOWERS, REMOVED, RemovedName, without_removed


@pytest.mark.parametrize(("name", "value"), REMOVED)
def test_a_removed_name_is_refused_with_file_key_and_cure(
    stdlib: Path, tmp_path: Path, name: str, value: str
) -> None:
    section, key = name.split(".")
    given: Any = [value] if name == "baselines.run" else value or 1
    changed: Any = {section: {key: given}}
    path = write_toml(stdlib, tmp_path / "a.toml", **changed)
    what = f'"{value}" was' if value else "was"
    expected = f"{path}: {name}: {what} removed; {REMOVED[name, value]}"
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
        read_experiment(path)


def test_a_removed_key_that_was_off_or_is_not_of_towers_is_left_out_of_a_stored_experiment() -> None:
    kept = {"name": "a", "tower": {"kind": "bag"}, "baselines": {"analyzer": "words"}}
    assert without_removed(kept) == kept
    for name, value in REMOVED:
        section, key = name.split(".")
        if key != "kind" and (section in BESIDE_TOWERS or not value):
            given: Any = (value or 512) if section in BESIDE_TOWERS else 0.0
            stored = {**kept, section: {**kept.get(section, {}), key: given}}  # type: ignore[dict-item]
            assert without_removed(stored).get(section, {}) == kept.get(section, {}), name


def test_a_stored_experiment_whose_towers_need_what_was_removed_is_refused() -> None:
    for name, value in REMOVED:
        section, key = name.split(".")
        if section not in BESIDE_TOWERS or key == "kind":
            with pytest.raises(RemovedName, match=f"^{name}: .* removed; "):
                without_removed({section: {key: value or 0.1}})


def test_a_removed_key_whose_value_is_what_towers_do_now_is_left_out_of_a_stored_experiment() -> None:
    for name, value in AS_NOW:
        section, key = name.split(".")
        assert without_removed({section: {"kind": "a", key: value}}) == {section: {"kind": "a"}}
    with pytest.raises(RemovedName, match=r"^tower\.newcomers: was removed; "):
        without_removed({"tower": {"kind": "sequence", "newcomers": "learned"}})
