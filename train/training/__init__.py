"""One experiment from its TOML to a finished run: the loop, checkpoints and tracking."""
