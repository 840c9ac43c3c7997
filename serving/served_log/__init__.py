"""The served log: what answers to searches held, written off the answer path as files of Parquet.

`config.py` has the flags, `sampling.py` the workers' end, `shared_queue.py` what joins it with
`process.py`, the process that writes, `columns.py` what it writes, and `log_folder.py` the files.
"""
