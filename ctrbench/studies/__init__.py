"""Studies: the experiments behind a paper's table or figure."""
