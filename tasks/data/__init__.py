"""Where the data come from. Start with `digits.load`, the shortest loader.

A loader returns a mapping from split to arrays, without random choices that differ between calls; it reads from disk
once per process. `digits` comes with scikit-learn, `stdlib_text` is the source of this Python's standard library.
"""

from . import digits, stdlib_text

__all__ = ["digits", "stdlib_text"]
