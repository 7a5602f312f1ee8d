"""AdamW whose own learning rate, and with it the whole grid, is twice as high."""

import optax


def adamw_twice(learning_rate=0.002, weight_decay=1e-4, b1=0.9, b2=0.999):
    return optax.adamw(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay)
