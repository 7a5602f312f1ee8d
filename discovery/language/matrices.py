"""Operations on parameter arrays as matrices, one function for the interpreter, the machine and exported files.

Every parameter array is a matrix here: its last axis holds the columns and all its other axes together the rows, as is
usual for the kernels of convolutions; a vector is one row, a number one by one. Exported files hold the source of what
they use, so a function needs nothing but `jax.numpy` and `_as_matrix`.
"""

import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp


def _as_matrix(x: jax.Array) -> jax.Array:
    """The array with its last axis as columns and all other axes together as rows; a vector is one row."""
    columns = x.shape[-1] if x.ndim else 1
    return x.reshape(x.size // max(columns, 1), columns)


def num_rows(x: jax.Array) -> jax.Array:
    """Rows of the array as a matrix."""
    return jnp.asarray(_as_matrix(x).shape[0], x.dtype)


def num_columns(x: jax.Array) -> jax.Array:
    """Columns of the array as a matrix."""
    return jnp.asarray(_as_matrix(x).shape[1], x.dtype)


def row_mean(x: jax.Array) -> jax.Array:
    """The mean of each row in all its places."""
    matrix = _as_matrix(x)
    return jnp.broadcast_to(jnp.mean(matrix, 1, keepdims=True), matrix.shape).reshape(x.shape)


def column_mean(x: jax.Array) -> jax.Array:
    """The mean of each column in all its places."""
    matrix = _as_matrix(x)
    return jnp.broadcast_to(jnp.mean(matrix, 0, keepdims=True), matrix.shape).reshape(x.shape)


def orthogonalize(x: jax.Array) -> jax.Array:
    """The matrix with its singular values brought near 1 by five Newton-Schulz steps (Jordan et al. 2024, Muon)."""
    matrix = _as_matrix(x)
    tall = matrix.shape[0] > matrix.shape[1]
    y = matrix.T if tall else matrix

    def newton_schulz(_: jax.Array, y: jax.Array) -> jax.Array:
        product = y @ y.T
        # Coefficients that are steepest at zero: singular values above 0.003 of the norm end between 0.68 and 1.21.
        return 3.4445 * y + (-4.775 * product + 2.0315 * product @ product) @ y

    y = jax.lax.fori_loop(0, 5, newton_schulz, y / (jnp.sqrt(jnp.sum(jnp.square(y))) + 1e-8))
    return (y.T if tall else y).reshape(x.shape)


def transposed_product(x: jax.Array, y: jax.Array) -> jax.Array:
    """x times its transpose times y: the directions of y that x has; of an array with itself, a step of Newton-Schulz."""
    matrix, other = _as_matrix(x), _as_matrix(y)
    tall = matrix.shape[0] > matrix.shape[1]
    return (matrix @ (matrix.T @ other) if tall else (matrix @ matrix.T) @ other).reshape(y.shape)


FUNCTIONS: dict[str, Callable[..., jax.Array]] = {
    function.__name__: function for function in (num_rows, num_columns, row_mean, column_mean, orthogonalize, transposed_product)
}


def source(names: list[str]) -> list[str]:
    """Source of the named functions, and first of what they share.

    >>> source(["num_rows"])[1].splitlines()[0]
    'def num_rows(x: jax.Array) -> jax.Array:'
    """
    return [inspect.getsource(function) for function in (_as_matrix, *(FUNCTIONS[name] for name in names))] if names else []
