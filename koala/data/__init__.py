"""From images to shards to batches: sources, writing and checking shards, sampling, the DALI pipeline."""
