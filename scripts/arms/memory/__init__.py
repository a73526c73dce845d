"""Will it fit? Memory predicted on fake tensors, and the ladder of micro-batches that fit."""
