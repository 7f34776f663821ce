"""Charts of a report; each file is one chart, found by its name."""
