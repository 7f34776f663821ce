"""From raw files to verified shards and batches."""
