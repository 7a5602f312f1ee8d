"""Every kernel is lowered for CUDA and compiled for TPUs, on any machine."""

import re

import jax
import jax.numpy as jnp
import pytest

from stepsmith import optimizers
from stepsmith.optimizers.kernels import Rule, backend, elementwise, fuse, substitutes

SHAPES = {"bias": (768,), "odd": (1001,), "scalar": (), "empty": (0,), "matrix": (256, 512), "ragged": (515, 513)}
KERNELS = {"cuda": ("gpu", "pallas-triton", "__gpu$xla.gpu.triton"), "tpu": ("tpu", "pallas-tpu", "tpu_custom_call")}
MAKERS = {"lion": optimizers.fused_lion, "adamw": optimizers.fused_adamw}


@pytest.fixture(params=["cuda", pytest.param("tpu", marks=pytest.mark.tpu_compiler)])
def target(request, monkeypatch, lower_for):
    """Lowers a function and asserts that its kernel is in the result, for each platform."""
    platform, name, call = KERNELS[request.param]
    monkeypatch.setattr(backend, "platform", lambda: platform)

    def check(make, arguments, **settings):
        text = lower_for(request.param, make(name), *arguments, **settings).text
        assert call in text
        return text

    return check


# Every pair of rule, states and dtype; states of one byte take the compiler for TPUs seconds each.
MIXES = [
    *(("lion", False, jnp.bfloat16), ("lion", True, jnp.float32), ("lion", False, jnp.float32)),
    *(("adamw", False, jnp.float32), ("adamw", True, jnp.bfloat16), ("adamw", False, jnp.bfloat16)),
]


@pytest.mark.parametrize(("name", "eight_bit", "dtype"), MIXES)
def test_optimizers(name, eight_bit, dtype, target):
    params = {key: jax.ShapeDtypeStruct(shape, dtype) for key, shape in SHAPES.items()}
    optimizer = MAKERS[name](0.1, eight_bit=eight_bit)

    def make(backend):
        return MAKERS[name](0.1, eight_bit=eight_bit, stochastic_rounding=True, backend=backend).step

    target(make, (params, params, jax.eval_shape(optimizer.init, params)))


def test_the_optax_form(target):
    params = {"a": jax.ShapeDtypeStruct((256, 512), jnp.bfloat16)}
    gradients = {"a": jax.ShapeDtypeStruct((256, 512), jnp.float32)}
    state = jax.eval_shape(optimizers.fused_lion(0.1).init, params)
    text = target(lambda backend: optimizers.fused_lion(0.1, backend=backend).transformation.update, (gradients, state, params))
    assert _aliases(text) == {(1, 4)}, "the momentum alone: bfloat16 updates do not fit into float32 gradients"


def _aliases(text):
    """(output, operand) of those outputs of a kernel that take the place of an operand."""
    return {(int(out), int(operand)) for out, operand in re.findall(r"output_tuple_indices = \[(\d+)\], operand_index = (\d+)", text)}


@pytest.mark.parametrize("eight_bit", [False, True])
def test_parameters_and_states_are_written_in_place(eight_bit, target):
    """The operands are numbers, key, parameter, gradient, states."""
    params = {"a": jax.ShapeDtypeStruct((256, 512), jnp.float32)}
    optimizer = optimizers.fused_lion(0.1, eight_bit=eight_bit)
    state = jax.eval_shape(optimizer.init, params)
    states = {(1, 4), (2, 5)} if eight_bit else {(1, 4)}
    step = target(lambda backend: optimizers.fused_lion(0.1, eight_bit=eight_bit, backend=backend).step, (params, params, state))
    assert _aliases(step) == {(0, 2)} | states
    update = target(
        lambda backend: optimizers.fused_lion(0.1, eight_bit=eight_bit, backend=backend).transformation.update, (params, state, params)
    )
    assert _aliases(update) == {(0, 3)} | states, "the update, over the gradient"


@pytest.mark.tpu_compiler
@pytest.mark.parametrize("topology", ["v4:2x2x1", "v6e:2x2"])
@pytest.mark.parametrize("target", ["tpu"], indirect=True)
def test_other_generations_of_tpus(topology, target):
    """Beside v5e, which the tests above compile for."""
    params = {key: jax.ShapeDtypeStruct(SHAPES[key], jnp.bfloat16) for key in ("matrix", "ragged")}
    state = jax.eval_shape(optimizers.fused_lion(0.1, eight_bit=True).init, params)

    def make(backend):
        return optimizers.fused_lion(0.1, eight_bit=True, stochastic_rounding=True, backend=backend).step

    target(make, (params, params, state), topology=topology)


@pytest.mark.parametrize("name", sorted(substitutes.BOUNDS))
def test_functions_that_a_compiler_may_lack(name, target):
    params = {"a": jax.ShapeDtypeStruct((256, 512), jnp.float32)}
    rule = Rule(lambda w, g, states, s: (getattr(jnp, name)(g), ()), (), lambda count: {})
    target(lambda backend: fuse(rule, backend=backend).step, (params, params, jax.eval_shape(fuse(rule).init, params)))


def test_branches_and_loops_around_such_functions(target):
    def update(w, g, states, s):
        x = jax.lax.cond(s["rate"] > 0, lambda: jnp.expm1(g), lambda: jnp.sign(g))
        return jax.lax.fori_loop(0, 3, lambda i, y: jnp.cbrt(y) * i, x), ()

    params = {"a": jax.ShapeDtypeStruct((256, 512), jnp.float32)}
    rule = Rule(update, (), lambda count: {"rate": 0.5})
    target(lambda backend: fuse(rule, backend=backend).step, (params, params, jax.eval_shape(fuse(rule).init, params)))


UNARY = (
    *("abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "bessel_i0e", "bessel_i1e", "cbrt", "ceil", "cos", "cosh", "digamma"),
    *("erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "lgamma", "log", "log1p", "logistic", "neg", "reciprocal", "round"),
    *("rsqrt", "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh"),
)
BINARY = ("add", "atan2", "div", "igamma", "igammac", "max", "min", "mul", "nextafter", "polygamma", "pow", "rem", "sub", "zeta")


@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_what_a_compiler_lacks_is_left_to_xla(name, request, target, monkeypatch):
    """And the rest is not."""
    backend_name = KERNELS[request.node.callspec.params["target"]][1]
    fn = getattr(jax.lax, name)
    rule = Rule(lambda w, g, states, s: (fn(g) if name in UNARY else fn(g, w), ()), (), lambda count: {})
    params = {"a": jax.ShapeDtypeStruct((256, 512), jnp.float32)}
    arguments = (params, params, jax.eval_shape(fuse(rule).init, params))
    if name not in elementwise.LACKING[backend_name]:
        target(lambda backend: fuse(rule, backend=backend).step, arguments)
        return
    with pytest.raises(backend.BackendError, match=f"{backend_name}.*lacks {name},.*'auto'"):
        fuse(rule, backend=backend_name)
    assert "pallas_call" not in str(jax.make_jaxpr(fuse(rule, backend=backend.AUTO).step)(*arguments))
    monkeypatch.setitem(elementwise.LACKING, backend_name, frozenset())
    elementwise.lacking.cache_clear()
    with pytest.raises(NotImplementedError):
        target(lambda backend: fuse(rule, backend=backend).step, arguments)
