"""Rules that searches found, each one self-contained file headed by its card: where it comes from, what it was shown to do and what not.

What comes in has met the criterion: in a look at the final variants of `stepsmith evaluate`, whose intervals pay for all looks, the
interval of its speed-up over tuned AdamW by steps to the target lies above 1.
"""

from .muon_rows import muon_rows, scale_by_muon_rows

__all__ = ["muon_rows", "scale_by_muon_rows"]
