"""Encodes items and queries with an ONNX tower.

    python -m twinspire.export encode --config shop.toml --items items.parquet --output vectors.npy

`encode_all` returns an array in memory; `encode_into` writes a file that can be resumed after a kill
(`resumable_file`). Both read records a window at a time (`records`), and give the same vectors, byte for
byte, on one kind of processor, because the position of a record determines its batch. A file that is resumed
on another processor is equally valid, but its vectors differ by rounding.
"""
