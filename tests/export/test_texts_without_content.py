"""Texts without content to a trained model, on the command line: there are no arbitrary items."""

import json
from collections.abc import Iterator

import pytest

from tests.helpers.stdlib import Made
from twinspire.serving.client.__main__ import main
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer


@pytest.fixture(scope="module")
def address(made_once: Made) -> Iterator[str]:
    with RetrievalServer(Retriever.load(made_once.folder)) as server:
        yield server.address


@pytest.mark.parametrize("text", ["", "\t\n", "...?", "日本語"])
def test_a_text_without_content_gets_no_arbitrary_items(
    text: str, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    search = ["search", "--k", "3", "--address", address]
    assert main([*search, "--json", "--", text]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["hits"], document["basis"]) == ([], "none")
    assert main([*search, "--", text]) == 0
    assert "nothing known in the query, and no item is more popular" in capsys.readouterr().out
