"""Generated data as prepared datasets."""
