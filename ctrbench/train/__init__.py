"""From batches to trained weights and predictions."""
