"""The shapes that the discovery package names are checked while the tests run."""

import jax.numpy as jnp
import jaxtyping
import pytest

from stepsmith.discovery.vm.packing import Layout


def test_an_array_of_a_wrong_shape_is_refused():
    layout = Layout(((3,),), 2)
    assert [leaf.shape for leaf in layout.unflatten(jnp.zeros((5, *layout.flat_shape)))] == [(5, 3)]
    for wrong in (jnp.zeros(layout.flat_shape), jnp.zeros((5, *layout.flat_shape), jnp.int32)):
        with pytest.raises(jaxtyping.TypeCheckError, match="unflatten"):
            layout.unflatten(wrong)


def test_packages_and_modules_that_name_shapes_are_found(tmp_path, modules_with_shapes):
    (tmp_path / "inner").mkdir()
    for path in ("__init__.py", "inner/__init__.py", "inner/named.py"):
        (tmp_path / path).write_text("from jaxtyping import Array\n")
    (tmp_path / "inner" / "other.py").write_text("import jax\n")
    assert set(modules_with_shapes("outer", tmp_path)) == {"outer", "outer.inner", "outer.inner.named"}
