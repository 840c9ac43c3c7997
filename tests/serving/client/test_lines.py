"""Lines of files of queries and items: a line that is too long is refused before it is in memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.conftest import ROOT
from twinspire.protos.errors import DataError
from twinspire.serving.client.item_files import read_rows
from twinspire.serving.client.lines import LONGEST_LINE

LONG = LONGEST_LINE + 1
MEASURED = """
import resource, sys
from pathlib import Path
from twinspire.protos.errors import DataError
from twinspire.serving.client.item_files import read_rows
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    for row in read_rows(Path(sys.argv[1])):
        pass
except DataError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(
    ("name", "head", "line", "expected"),
    [
        (
            "items.jsonl",
            '{"id": "a"}\n{"id": "b", "text": "',
            "x",
            f"line 2: longer than {LONGEST_LINE} characters",
        ),
        ("items.csv", "id,text\na,", "x", f"line 2: longer than {LONGEST_LINE} characters"),
        ("items.tsv", "id\ttext\na\t", "x", f"line 2: longer than {LONGEST_LINE} characters"),
        ("items.csv", "", "x", f"line 1: longer than {LONGEST_LINE} characters"),
        (
            "items.csv",
            'id,text\na,"',
            "x" * 1023 + "\n",
            f"line 2: field larger than field limit ({LONGEST_LINE})",
        ),
    ],
)
def test_a_long_line_is_named_and_takes_no_memory(
    tmp_path: Path, name: str, head: str, line: str, expected: str
) -> None:
    path = tmp_path / name
    with path.open("w") as file:
        file.write(head)
        for _ in range(8):
            file.write(line * (LONG // len(line)))
    command = [sys.executable, "-c", MEASURED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=True)
    error, taken = done.stdout.splitlines()
    assert error.startswith(f"{path}: {expected}")
    unit = 1 if sys.platform == "darwin" else 1024  # of `ru_maxrss`
    assert int(taken) * unit < 6 * LONGEST_LINE  # the file has eight times as much


def test_rows_of_several_lines_are_read_as_before(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_bytes(b'\xef\xbb\xbfid,text\r\na,"one\r\ntwo, ""three"""\r\nb,\r\n')
    assert [*read_rows(path)] == [{"id": "a", "text": 'one\r\ntwo, "three"'}, {"id": "b", "text": ""}]
    path.write_bytes(b"id,text\na,\xff\n")
    with pytest.raises(DataError, match=r"items\.csv: line \d: 'utf-8' codec"):
        [*read_rows(path)]
    path = tmp_path / "items.jsonl"
    path.write_bytes(b'{"id": "a"}\n\xff\n')
    with pytest.raises(DataError, match=r"items\.jsonl: line \d: 'utf-8' codec"):
        [*read_rows(path)]
