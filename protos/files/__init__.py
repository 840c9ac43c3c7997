"""Files and folders: drafts that become whole or vanish, locks, regular files only, self-contained ONNX, tokenizers."""
