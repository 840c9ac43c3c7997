"""Each process of the tests reads the code of a stage once, for the keys of all that is cached."""

import functools
import sys

STAGES = (
    "twinspire.train.data.dataset",
    "twinspire.train.training.run",
    "twinspire.export.bundle_builder",
    "twinspire.export.encoding.encoding",
    "twinspire.export.refresh.refresh",
)


def read_code_once() -> None:
    """Let the stages that are imported keep their part of a key, which takes a tenth of a second to make.

    No test changes the code of this checkout; where `fingerprint.ROOT` is a copy, the code is read each time.
    """
    from twinspire.train import fingerprint
    from twinspire.train.paths import ROOT

    read = fingerprint.code_fingerprint
    kept = functools.cache(read)

    def code_fingerprint(module: str) -> str:
        return (kept if vars(fingerprint)["ROOT"] == ROOT else read)(module)

    for name in STAGES:
        if name in sys.modules:
            assert vars(sys.modules[name])["code_fingerprint"] is read
            vars(sys.modules[name])["code_fingerprint"] = code_fingerprint
