"""Checks the collection of a bundle in a process of its own.

    python -m twinspire.serving.index.milvus_check .cache/bundles/3f2a9c0d1e5b

The service loads a bundle before it forks its workers, and the threads of a connection do not survive a fork.
On an error the last line names its class.
"""

import argparse
import sys
from pathlib import Path

from twinspire.protos import bundle
from twinspire.protos.errors import TwinspireError
from twinspire.protos.vector_databases.milvus import MilvusServer, check_collection, collection_name


def main() -> int:
    """Check the bundle that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m twinspire.serving.index.milvus_check",
        description="Compare a bundle with its collection on the Milvus server.",
    )
    parser.add_argument("folder", type=Path, help="folder of the bundle")
    folder = parser.parse_args().folder
    try:
        manifest = bundle.read_manifest(folder)
        client = MilvusServer.from_environment().connect()
        check_collection(client, collection_name(manifest.bundle_version), folder, manifest)
    except TwinspireError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
