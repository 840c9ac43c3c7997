import pytest

from tests.helpers.pretrained import write_model
from twinspire.train.models.pretrained.folder import PretrainedFolder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> PretrainedFolder:
    """A tiny model; tests change nothing in its folder."""
    return PretrainedFolder.read(write_model(tmp_path_factory.mktemp("pretrained") / "tiny"))
