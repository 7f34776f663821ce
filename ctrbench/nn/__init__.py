"""Plans, stages and the one model that they build."""
