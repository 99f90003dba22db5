"""Networks and their weights: the fusion network, the frozen extractor, objectives, checkpoints, the hub."""
