"""discovered: a learning-rate schedule written by stepsmith 0.1.0.

- run a, rank 1: regularized_evolution from linear, seed 0
- searched on digits_mlp~25, digits_mlp~400, digits_autoencoder~25, digits_gru~50, fashion_mlp~25
- fitness -0.3402 on new seeds (0 is tuned AdamW, lower is better)
- program 7f1624633bdc83314790b4394b2814c2, 3 statements

The program (a / b is a / (b + 1e-8), sqrt and logarithms act on |x|):

    def schedule(progress):
        x6 = interp(progress, 0.34643412977759, progress)
        progress = cbrt(x6)
        multiplier = progress - -0.5257269303211383
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
        x1 = (1 - progress) * progress + progress * 0.346434129778
        x2 = jnp.cbrt(x1)
        multiplier = x2 - (-0.525726930321)
        return init_value * multiplier

    return schedule
