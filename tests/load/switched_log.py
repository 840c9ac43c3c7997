"""`python -m tests.load.switched_log FILE serve ...`: the service, with a log that can be switched.

It takes answers while the file's only byte is 1. So the answers with and without the log come from the same
processes.
"""

import mmap
import sys
from pathlib import Path
from typing import Any

from twinspire.serving import __main__ as serving
from twinspire.serving.served_log.sampling import AnswerSampler


def main() -> int:
    """Run the command line of the service."""
    with Path(sys.argv.pop(1)).open("r+b") as file:
        switch = mmap.mmap(file.fileno(), 1)
    sample = AnswerSampler.sample

    def switched(*arguments: Any, **options: Any) -> Any:
        return sample(*arguments, **options) if switch[0] else None

    AnswerSampler.sample = switched  # type: ignore[method-assign]
    return serving.main()


if __name__ == "__main__":
    sys.exit(main())
