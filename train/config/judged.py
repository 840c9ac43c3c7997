"""`[judged]`: queries that people have judged, a test of their own beside the held-out split."""

from dataclasses import dataclass

from twinspire.protos import names


@dataclass(frozen=True)
class JudgedConfig:
    """A folder in BEIR layout: `queries.jsonl` and `qrels/<split>.tsv`.

    Its documents are the experiment's own items, matched by id. It is never trained on, and nothing is chosen
    by it.

    Args:
        folder: path of the folder, relative to the TOML file; one that is not there is looked for in the
            folder that the environment variable TWINSPIRE_DATA names.
        split: name of the file in `qrels`, without `.tsv`.
    """

    folder: str
    split: str = "test"

    def __post_init__(self) -> None:
        if not self.folder:
            raise ValueError("folder: expected the path of a folder, got an empty string")
        try:
            names.file_name(self.split)
        except ValueError as error:
            raise ValueError(f"split: {error}") from None
