"""AutoLRS: learning rates found by Bayesian optimisation while a model trains (Jin et al., 2021, arXiv:2105.10762).

Start with `controller`, which reads like the paper's algorithm and works with any training loop. `forecast` says from a short window of
losses where a loss is going, `optimizer` is a general Bayesian optimiser (`init`, `ask`, `tell`), `gp` the process behind it, and `replay`
makes what was found an optax schedule. Needs the library tinygp: pip install 'stepsmith[autolrs]'.
"""

from .controller import Loop, advance, run
from .replay import Found, to_schedule
from .stages import AutoLRSConfig, State, cooled, found, scaled

__all__ = ["AutoLRSConfig", "Found", "Loop", "State", "advance", "cooled", "found", "run", "scaled", "to_schedule"]
