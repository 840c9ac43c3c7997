"""Pretrained text encoders, from a local folder in Hugging Face layout.

folder.py    reads and checks the folder: model, pooling, tokens, licence, hash
encoder.py   the torch module, with pooling and norm, and vectors of texts, computed once and kept on disk
"""
