"""Charts of a report; each file is one chart, found by its name.

A file defines `draw`, which takes a `Summary` and yields figures (see `figure`). A new chart edits no other file:

    def draw(summary: Summary) -> Iterable[Figure]:
        yield Figure(stem="seconds", title="Training time by method", chart=...)
"""
