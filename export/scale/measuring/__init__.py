"""One size of the scale report, measured: `python -m export.scale.measuring STEP --folder F ...`.

    encode    documents, towers, and all documents through the item tower
    build     the graph over their vectors
    search    its width, then graph and exact search on queries that the width was not chosen on
    load      a bundle of all that, verified and loaded by a process that serves
    vectors   another catalogue: vectors of int8 alone, and what is nearest in float32
    exact     exact search over these

Each step is a process, so that its memory is its own, and leaves its files and a `<step>.json` in the folder.
All that a figure follows from is in here, and what is only shown is not: the code of this package is a part
of the name that results are kept under.
"""
