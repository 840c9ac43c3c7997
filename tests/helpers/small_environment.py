"""A virtual environment in which the source `pydocs` finds few packages, beside the standard library.

It reads the docstrings of all that is installed, which takes a minute or more where the packages of the tests
are. Parsing takes nearly all of that.
"""

import shutil
import sys
import sysconfig
from pathlib import Path

DOCUMENTED = ("pandas/io", "polars/io")  # what it reads beside the standard library


def make_environment(folder: Path) -> None:
    """Make a virtual environment at `folder`.

    Python imports from the packages of these tests (`whole.pth`), but the folder of its own packages, whose
    docstrings are read, holds only `DOCUMENTED`.
    """
    whole = Path(sysconfig.get_path("purelib"))
    own = folder / whole.relative_to(sys.prefix)
    for path in (path for part in DOCUMENTED for path in (whole / part).rglob("*.py")):
        link = own / path.relative_to(whole)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    lines = f"import sys; {str(own)!r} in sys.path and sys.path.remove({str(own)!r})\n{whole}\n"
    (own / "whole.pth").write_text(lines)
    shutil.copy(Path(sys.prefix, "pyvenv.cfg"), folder)
    (folder / "bin").symlink_to(Path(sys.executable).parent)
