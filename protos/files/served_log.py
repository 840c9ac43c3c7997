"""The served log: what answers to searches held, in files of Parquet that `serve --served-log` writes.

    FOLDER/2026-12-01T20/1764620700123456789-2-1.parquet  hour (UTC), nanoseconds of first row, writer, number
    FOLDER/drift.json                                     what `python -m twinspire.export drift` found last

A file is written whole, under another name first, so each `*.parquet` can be read. One row is one query's
answer. Lists have one element per hit, in the order of positions, unless said otherwise.
"""

# Columns and their types, by pyarrow's names. Each may be null unless said otherwise.
COLUMNS = {
    "request_id": "string",  # never null; that of the answer, which events repeat
    "time": "timestamp[us, tz=UTC]",  # never null; when the answer was made
    "bundle": "string",  # never null; version of the bundle that answered, or of the champion if interleaved
    "sequence": "int64",  # of the store of live items, if there is one
    "user": "string",  # digest of the user's key, or the key where the operator says so
    "measures": "list<float>",  # of the query, in the order of the bundle's reference (`protos/drift.py`)
    "comparable": "bool",  # never null; whether drift compares the answer (`LoggedQuery`)
    "query": "string",  # JSON object of the query's features; texts only where the operator says so
    "k": "int64",  # never null; hits that were asked for
    "filter": "string",  # its text, if there was one
    "item_ids": "list<string>",  # never null
    "scores": "list<float>",  # never null
    "weak": "bool",  # never null; whether nothing matches the query well, as the answer said
    # Exploration: a Plackett-Luce draw of the order of the best candidates (Plackett 1975): the next item is
    # drawn with probability exp(score / temperature) / sum over the candidates that are left. All null where
    # the answer was not explored.
    "propensities": "list<double>",  # of each hit: the probability of that draw, given the hits before it
    "candidate_ids": "list<string>",  # all that were drawn from, by falling score
    "candidate_scores": "list<float>",  # their scores, before the draw
    "temperature": "double",
    # Interleaving by team draft (Radlinski et al. 2008). Null where the answer has one bundle.
    "challenger": "string",  # version of the other bundle
    "teams": "list<int8>",  # 0: the champion's pick, 1: the challenger's, null: a click says nothing of it
}
DRIFT = "drift.json"
SUFFIX = ".parquet"
HOUR_FORMAT = "%Y-%m-%dT%H"  # name of a folder
