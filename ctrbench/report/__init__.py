"""Tables, plots, page and leaderboard; no torch."""
