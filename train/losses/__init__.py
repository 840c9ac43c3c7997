"""Losses: the candidates of each training step, negative sampling, hard negatives, and the loss itself."""
