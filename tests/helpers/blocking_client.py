"""Writes the blocking client from the one for asyncio: `python tests/helpers/blocking_client.py TARGET`.

`make protos` runs it, and `make lint` compares the client with what it writes.
"""

import io
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from tokenize import NAME, generate_tokens

SOURCE = Path(__file__).parents[2] / "serving" / "client" / "asynchronous.py"
HEADER = "# Generated from asynchronous.py by `make protos`; change that file.\n"
PREFIX = "Async"  # of names that the blocking client has without it
RENAMED = {"aiter": "iter", "__aenter__": "__enter__", "__aexit__": "__exit__"}
FORMATTERS = (["check", "--select", "I", "--fix"], ["format"])  # subcommands of ruff


def blocking(source: str) -> str:
    """The blocking equivalent of asynchronous Python: no `async` and `await`, and `grpc` for `grpc.aio`.

    Strings and comments are copied as they are, so each of them must hold for both clients. Names in braces
    of f-strings are renamed from Python 3.12 on alone, so no `Async` name may stand there.

    Raises:
        subprocess.CalledProcessError: ruff refuses the result.
    """
    lines = source.splitlines(keepends=True)
    tokens = generate_tokens(io.StringIO(source).readline)
    for token, after in reversed([*pairwise(tokens)]):  # from the end, so that the places before stay valid
        name, end = token.string, token.end
        if (name, after.string) == (".", "aio"):
            name, end = "", after.end
        elif token.type != NAME:
            continue
        elif name in ("async", "await"):
            name, end = "", after.start
        else:
            name = RENAMED.get(name, name.removeprefix(PREFIX))
        if name != token.string:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column] + name + lines[row - 1][end[1] :]
    text = HEADER + "".join(lines)
    for command in FORMATTERS:
        ruff = [sys.executable, "-m", "ruff", *command, "--quiet", "--stdin-filename", str(SOURCE), "-"]
        text = subprocess.run(ruff, input=text, stdout=subprocess.PIPE, text=True, check=True).stdout
    return text


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(blocking(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
