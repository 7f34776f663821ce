"""One file a raw format: raw files to a polars LazyFrame."""
