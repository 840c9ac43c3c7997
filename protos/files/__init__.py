"""Files and folders: drafts that become whole or vanish, locks, regular files only, ONNX, tokenizers."""
