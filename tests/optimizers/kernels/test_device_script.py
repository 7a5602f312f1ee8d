"""The script that checks and times the kernels on a device, at its smallest on the CPU: what fails is noted and the rest goes on."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepsmith.optimizers.kernels import gpu, tpu
from stepsmith.optimizers.kernels.rule import Leaf

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
ONE = "lion float32, 9.22e+03 in 1"  # and its form with states of one byte


@pytest.fixture(scope="module")
def device():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("device", FOLDER / "device.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(FOLDER))
    sys.modules["device"] = module  # where dataclasses look
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(FOLDER))
        for name in ("device", "population_device"):
            sys.modules.pop(name, None)


def _run(device, tmp_path, *options):
    output = tmp_path / "device.json"
    device.main(["--quick", "--output", str(output), *options])
    return json.loads(output.read_text())


def test_rows_have_checks_and_times(device, tmp_path, capsys):
    result = _run(device, tmp_path, "--only", ONE, "--seed", "5")
    assert result["seed"] == 5 and not result["skipped"] and not result["population"]
    assert [row["case"] for row in result["rows"]] == [ONE, f"8-bit {ONE}"]
    for row in result["rows"]:
        assert not row["failed"] and 0 <= row["difference"] < 1e-5
        assert row["xla_us"] > 0 and math.isclose(row["optax_over_ours"], row["optax_us"] / row["xla_us"])
    assert result["rows"][1]["bytes"] == 9216 * 14 + 36 * 8
    assert "FAILED" not in capsys.readouterr().out


def test_what_fails_is_noted_and_the_rest_goes_on(device, tmp_path, capsys, monkeypatch):
    run = gpu.run
    monkeypatch.setattr(
        gpu, "run", lambda *args, **kwargs: [[x * jnp.nan if x.dtype == jnp.float32 else x for x in row] for row in run(*args, **kwargs)]
    )
    samples, calls = device._samples, []

    def once_without_memory(*args):
        calls.append(None)
        if len(calls) == 2:  # the first is a copy's
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore lines")
        return samples(*args)

    monkeypatch.setattr(device, "_samples", once_without_memory)
    first, second = _run(device, tmp_path, "--only", ONE)["rows"]
    found = "AssertionError: 100.00% of the kernel's elements are not finite"
    assert first["failed"] == {"check": found, "xla": "RuntimeError: RESOURCE_EXHAUSTED: out of memory"}
    assert second["failed"] == {"check": found} and second["difference"] is None
    assert "xla_us" not in first and min(first["optax_us"], second["xla_us"], second["optax_us"]) > 0
    assert capsys.readouterr().out.count("FAILED, check: ") == 2


def test_a_population_that_fails_is_noted(device, tmp_path, monkeypatch):
    def fail(*_):
        raise AssertionError("updates differ by up to 2")

    monkeypatch.setattr(sys.modules["population_device"], "_common", fail)
    result = _run(device, tmp_path, "--only", "population of digits_mlp")
    assert result["population"] == [{"task": "digits_mlp", "candidates": 4, "failed": "AssertionError: updates differ by up to 2"}]
    assert not result["rows"] and not result["skipped"]


def test_without_time_all_is_skipped(device, tmp_path):
    result = _run(device, tmp_path, "--minutes", "0")
    assert not result["rows"] and len(result["skipped"]) == 28
    assert all(case["why"].endswith("0 s are left") for case in result["skipped"])
    assert ["skipped" in row for row in result["population"]] == [True]


def test_differences(device):
    y = jnp.linspace(-1, 1, 10_000)
    assert device._difference(y, y) == 0
    for x, what in ((y * jnp.nan, "are not finite"), (y.at[0].set(jnp.inf), "are not finite"), (y + 0.5, "100.00% of the elements differ")):
        with pytest.raises(AssertionError, match=what):
            device._difference(x, y)
    with pytest.raises(AssertionError, match="the reference is not finite"):
        device._difference(y, y.at[0].set(jnp.nan))


def test_an_estimate_is_what_like_cases_took_and_their_bytes(device):
    one, many = (device._optimizer_case("lion", device.sizes_of(10**6, tensors), jnp.float32, False) for tensors in (1, 2))
    rows = [{"tensors": 1, "seconds": 20.0, "bytes": 0}, {"tensors": 1, "seconds": 30.0, "bytes": 0}]
    moving = 5 * 152 * one.bytes / (0.5 * 1e12)
    assert math.isclose(device.estimate(one, rows, 1e12), 30 + moving)
    assert device.estimate(many, rows, 1e12) == device.estimate(many, [], 1e12) > 60 > device.estimate(one, [], 1e12)


def test_the_most_telling_cases_come_first_and_one_tensor_goes_to_the_kernel_for_tpus(device):
    cases = list(device.optimizer_cases(True))
    told = list(dict.fromkeys((case.tensors > 1, case.name.split()[-3]) for case in cases))
    moved = {case.name: case.bytes / 9216 for case in cases}
    assert [moved[f"{kind}lion {dtype}, 9.22e+03 in 1"] for kind in ("", "8-bit ") for dtype in ("float32", "bfloat16")] == [
        *(20, 14, 14 + 8 / 256, 8 + 8 / 256)
    ]
    assert told == [(False, "9.22e+03"), (True, told[1][1]), (False, "9.93e+04"), (True, told[3][1])] and float(told[1][1]) < float(
        told[3][1]
    )
    assert len({case.name for case in cases}) == len(cases)
    for total in device.SIZES:
        (shape,) = device.sizes_of(total, 1)
        param, scales = (jax.ShapeDtypeStruct(size, jnp.float32) for size in (shape, (math.prod(shape) // 256,)))
        codes = jax.ShapeDtypeStruct(shape, np.int8)
        assert tpu.fits(Leaf((param, param, codes, scales), (tpu,), 0, True)), "coded"
        assert tpu.fits(Leaf((param, param, param), (None,), 0, True))
