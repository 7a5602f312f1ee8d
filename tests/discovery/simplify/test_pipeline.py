"""The stages together, in Python and as a command."""

import json
import sys

import pytest
from obfuscation import outputs, same

from stepsmith.discovery import cli, simplify
from stepsmith.discovery.language import ProgramError, canonical_hash, load, parse, to_text
from stepsmith.discovery.simplify import Settings, pipeline, to_short_text
from stepsmith.discovery.simplify.exact import exact
from stepsmith.discovery.simplify.judge import Verdict

# Of the parts that a quadratic does not need: a bound that is never met, and a sign in other words.
PADDED = """def train(w, g, m, lr):
    unused = sin(w)
    g = maximum(g, -100000.0)
    m = interp(g, m, 0.8999999761581421)
    root = sqrt(m * m)
    update = m / root * (lr * 0.0312)
    return update, m"""
QUICK = Settings(seeds=4, mutants=20, learning_rate_factor=1.0, tolerance=0.05)
ON_QUADRATIC = ("--tasks", "quadratic", "--seeds", 4, "--mutants", 0, "--learning-rate-factor", 1, "--tolerance", 0.05)


@pytest.fixture(scope="module")
def simplified():
    return simplify(parse(PADDED), ("quadratic",), QUICK)


def test_simplified_program(simplified):
    interp, scaled = (next(s for s in simplified.program.statements if s.op == op) for op in ("interp", "multiply"))
    b1, rate = interp.args[2], scaled.args[1]
    assert to_short_text(simplified.program).splitlines() == [
        "def train(w, g, m, lr):",
        f"    m = interp(g, m, {b1})",
        "    direction = sign(m)",
        f"    update = direction * (lr * {rate})",
        "    return update, m",
    ]
    assert 0.8 <= b1 < 1 and 0.02 < rate < 0.04


def test_steps_tell_the_way(simplified):
    steps = simplified.steps
    assert [step.stage for step in steps][0] == "exact"
    assert steps[0].before == 8 and steps[-1].after == len(simplified.program.statements) == 4
    assert all(one.after == other.before for one, other in zip(steps, steps[1:], strict=False))
    for step in steps:
        assert (step.verdict is None) == (step.stage in ("exact", "names"))
        assert step.verdict is None or step.verdict.accepted
    assert simplified.confirmed.difference < QUICK.tolerance
    assert simplified.original_fitness[1] <= simplified.original_fitness[0] <= simplified.original_fitness[2]
    assert simplified.runs > 0 and not simplified.interrupted


@pytest.mark.heavy
def test_the_same_seed_gives_the_same(simplified):
    again = simplify(parse(PADDED), ("quadratic",), QUICK)
    assert (again.program, again.steps, again.runs) == (simplified.program, simplified.steps, simplified.runs)


def test_without_tasks_only_what_can_be_proved():
    done = simplify(parse(PADDED))
    assert same(outputs(parse(PADDED)), outputs(done.program))
    assert len(done.program.statements) <= len(exact(parse(PADDED)).statements)
    assert "maximum" in to_text(done.program) and "unused" not in to_text(done.program)
    assert done.original_fitness is done.confirmed is done.better is None and done.runs == 0


@pytest.mark.heavy
def test_what_new_seeds_refuse_is_left_for_the_last_form_that_they_do_not():
    """In the end the exact form, which is equal whatever seeds say."""
    texts = ("    update = sign(g) * lr\n", "    x = sign(g) * lr\n    update = x + 0.0\n", "    update = g * lr\n")
    shorter, proven, other = (parse(f"def train(w, g, lr):\n{text}    return update") for text in texts)

    class OfNewSeeds:
        better, factor, runs = staticmethod(lambda: None), 1.0, 0

        def __init__(self, taken):
            self.taken = taken

        def __call__(self, program):
            return Verdict(program in self.taken, 1.0, 0.5, 1.5, 8)

        def standing(self):
            return 0.0, -0.1, 0.1

    def finished(*taken):
        session = pipeline._Session(proven, Settings(), lambda done, total, seconds: None)
        session.adopt(proven, "exact", "", None)
        session.adopt(shorter, "tolerant", "", None)
        session.adopt(other, "tolerant", "", None)
        return session.finish(OfNewSeeds(taken))

    for taken, expected, steps in (((other, shorter), other, 2), ((shorter,), shorter, 1), ((), proven, 0)):
        done = finished(*taken)
        assert canonical_hash(done.program) == canonical_hash(expected)
        assert [step.stage for step in done.steps[:steps]] == ["tolerant"] * steps and len(done.steps) <= steps + 1


def test_interruption_keeps_what_was_accepted():
    calls = []

    def on_progress(done, total, seconds):
        calls.append(done)
        if len(calls) > 3:
            raise KeyboardInterrupt

    done = simplify(parse(PADDED), ("quadratic",), QUICK, on_progress)
    assert done.interrupted and done.confirmed is None
    assert len(done.program.statements) <= len(exact(parse(PADDED)).statements)


def test_a_program_that_fails_everywhere_is_refused():
    program = parse("def train(w, g, lr):\n    update = log(g - g)\n    return update")
    with pytest.raises(ValueError, match="fails on quadratic"):
        simplify(program, ("quadratic",), QUICK)


def test_a_rule_without_gradient_is_refused():
    with pytest.raises(ProgramError, match="gradient"):
        simplify(parse("def train(w, g, lr):\n    update = w * lr\n    return update"))


@pytest.fixture
def stepsmith(monkeypatch, capsys, tmp_path):
    """Runs the command in a folder of its own; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "padded.txt").write_text(PADDED)
    (tmp_path / "bad.txt").write_text("def train(w, g, lr):\n    update = eval(g)\n    return update\n")
    (tmp_path / "blind.txt").write_text("def train(w, g, lr):\n    update = w * lr\n    return update\n")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["stepsmith", "simplify", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return run


@pytest.mark.heavy
def test_command_writes_a_program(stepsmith, tmp_path):
    code, out, _ = stepsmith("padded.txt", *ON_QUADRATIC, "-o", "short.txt")
    assert code == 0
    assert "wrote short.txt" in out and "candidates of this stage" in out and "maximum" in out
    text = (tmp_path / "short.txt").read_text()
    assert text.startswith("# From padded.txt, 8 statements, to 4.\n# Fitness of the original on quadratic")
    assert len(load(tmp_path / "short.txt").statements) == 4


def test_command_prints_a_program(stepsmith):
    code, out, err = stepsmith("adamw")
    assert code == 0 and err == ""
    program = "\n".join(line for line in out[out.index("def train") :].splitlines())
    assert canonical_hash(parse(program)) == canonical_hash(load("adamw"))


@pytest.mark.heavy
def test_command_prints_json(stepsmith):
    code, out, _ = stepsmith("padded.txt", *ON_QUADRATIC, "--json")
    done = json.loads(out)
    assert code == 0 and out.count("\n") == 1
    assert done["statements"] == len(parse(done["program"]).statements) == 4
    assert done["steps"][0]["stage"] == "exact" and done["steps"][1]["verdict"]["accepted"]
    assert not done["interrupted"]


LAYERED = """def train(w, g, lr):
    direction = maximum(orthogonalize(g), -100000.0)
    update = direction * (lr * num_rows() * 0.1)
    return update"""


@pytest.mark.heavy
def test_command_on_the_extended_language(stepsmith, tmp_path):
    """A bound that is never met goes; what is left is that direction at a rate that the task allows."""
    (tmp_path / "layered.txt").write_text(LAYERED)
    code, out, _ = stepsmith("layered.txt", *ON_QUADRATIC, "--json")
    done = json.loads(out)
    operations = [statement.op for statement in parse(done["program"]).statements]
    assert code == 0 and "orthogonalize" in operations and "maximum" not in operations and len(operations) <= 3
    assert any(step["stage"] == "tolerant" and "maximum" in step["what"] for step in done["steps"])
    assert done["confirmed"]["difference"] < 0.05


def test_command_reads_a_run(stepsmith, finished_run):
    code, out, _ = stepsmith(finished_run.folder, "--rank", 2)
    assert code == 0
    short = parse(out[out.index("def train") :])
    assert len(short.statements) <= len(finished_run.best(2).program.statements)


BAD = {
    "no such file": ("nothing.txt", ["nothing.txt", "lion"]),
    "no program": ("bad.txt", ["bad.txt", "line 2", "eval"]),
    "no gradient": ("blind.txt", ["gradient"]),
    "unknown task": ("lion --tasks digit_mlp -o x.txt", ["unknown task 'digit_mlp'", "digits_mlp"]),
    "a final variant": ("lion --tasks stepsmith.discovery.benchmark.workloads:table_values_final", ["final variant", "meta"]),
    "one seed": ("lion --tasks quadratic --seeds 1", ["seeds", "2 to"]),
    "no tolerance": ("lion --tolerance 0", ["tolerance", "above 0"]),
    "tolerance that is no number": ("lion --tolerance x", ["--tolerance", "no number"]),
    "negative gain": ("lion --gain -1", ["gain", "at least 0"]),
    "negative seed": ("lion --seed -1", ["seed", "-1"]),
    "negative mutants": ("lion --mutants -1", ["mutants", "-1"]),
    "factor 0": ("lion --learning-rate-factor 0", ["learning_rate_factor", "above 0"]),
    "nowhere to write": ("lion -o nowhere/short.txt", ["nowhere/short.txt", "folder"]),
    "no file": ("", ["FILE"]),
}


@pytest.mark.parametrize(("arguments", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line(stepsmith, tmp_path, arguments, words):
    before = sorted(tmp_path.iterdir())
    code, out, err = stepsmith(*arguments.split())
    assert code == 2 and out == ""
    assert err.startswith("stepsmith: ") and err.count("\n") == 1
    for word in words:
        assert word in err
    assert sorted(tmp_path.iterdir()) == before


def test_bad_rank(stepsmith, finished_run):
    code, _, err = stepsmith(finished_run.folder, "--rank", 99)
    assert code == 2 and "rank 99" in err and err.count("\n") == 1


def test_a_state_that_stays_at_zero_goes_even_where_no_statement_does():
    text = """def train(w, g, m, v, lr):
    m = interp(g, m, 0.5429156800384832)
    blend = interp(v, m, 0.6796527003407657)
    t6 = log1p(-0.07654868536152627)
    t2 = orthogonalize(blend)
    t3 = num_rows()
    t4 = sqrt(t3)
    matrix = t2 * t4
    x2 = orthogonalize(t6)
    t6 = on_matrices(matrix, x2)
    t7 = lr * 0.02
    update = t6 * t7
    return update, m, v"""
    program = parse(text)
    short = exact(program)
    assert (len(short.statements), len(short.states)) == (len(program.statements), 1)
    assert canonical_hash(short) == canonical_hash(program)
