"""The served log: what answers to searches held, written off the answer path as files of Parquet.

`config.py` has the flags, `sampling.py` the workers' end, `process.py` the process that writes, and
`log_folder.py` the files.
"""
