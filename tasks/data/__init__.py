"""Where the data come from. Start with `digits.load`, the shortest loader, and `sources.Rows`, which cuts batches from it.

A loader returns a mapping from split to arrays, without random choices that differ between calls; it reads from disk
once per process. `digits`, `cancer` and `diabetes` come with scikit-learn, `fashion` is read from a folder of IDX files,
`stdlib_text` is the source of this Python's standard library, `records` reads a user's own large data on the host.
"""

from .sources import Rows, Windows

__all__ = ["Rows", "Windows"]
