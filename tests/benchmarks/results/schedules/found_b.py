"""discovered: a learning-rate schedule written by stepsmith 0.1.0.

- run b, rank 1: regularized_evolution from rex, seed 0
- searched on digits_mlp~400, digits_autoencoder~400, digits_gru~200, fashion_mlp~200
- fitness -0.0237 on new seeds (0 is tuned AdamW, lower is better)
- program e824bba4798b485302fb748fdab84e73, 4 statements

The program (a / b is a / (b + 1e-8), sqrt and logarithms act on |x|):

    def schedule(progress):
        t1 = 1.0 - progress
        t2 = progress * 0.5
        t3 = 0.8009229539545134 - t2
        multiplier = t1 / t3
        return multiplier
"""

import jax.numpy as jnp
import optax


def discovered(init_value: float, decay_steps: int) -> optax.Schedule:
    """The schedule: step -> learning rate.

    Args:
        init_value: what the program's multiplier multiplies.
        decay_steps: length of the run.
    """
    if decay_steps < 1:
        raise ValueError(f"decay_steps must be at least 1, got {decay_steps}")

    def schedule(count):
        progress = jnp.minimum(count, decay_steps) / decay_steps
        x1 = 1.0 - progress
        x2 = progress * 0.5
        x3 = 0.800922953955 - x2
        multiplier = x1 / (x3 + 1e-8)
        return init_value * multiplier

    return schedule
