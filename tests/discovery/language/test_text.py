"""Text and JSON are exact inverses of programs, and what is no program is a ProgramError with line and reason."""

from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stepsmith.discovery.export import to_pallas, to_python
from stepsmith.discovery.language import (
    OPS,
    Program,
    ProgramError,
    Statement,
    canonical_hash,
    extended_operations,
    infer,
    load,
    names,
    parse,
    schedule_names,
    to_text,
)
from stepsmith.discovery.search import MutationConfig, mutate

PAPER = ["adagrad", "adamw", "adamw_corrected", "addsign", "lion", "lion_raw", "momentum", "powersign", "rmsprop", "sgd"]
PAPER += ["demon", "lamb", "paper_adabelief_like", "paper_adagrad_like", "paper_regularizing", "signum"]
EXTENDED = ["adafactor", "muon", "newton_schulz", "polyak"]
SHIPPED = sorted(PAPER + EXTENDED)
RELAXED = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def _program(name, seed, count):
    """A well-typed program of either language: a shipped one after some mutations."""
    program, random = load(name), Random(seed)
    for _ in range(count):
        program = mutate(program, canonical_hash(program), random, MutationConfig(max_statements=48), seed % 2 == 1).program
    return program


def test_names():
    assert names() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_round_trip(name):
    program = load(name)
    assert parse(to_text(program)) == program
    assert Program.from_json(program.to_json()) == program
    assert len(infer(program)) == len(program.statements) > 0


@RELAXED
@given(st.sampled_from(SHIPPED), st.integers(0, 2**32), st.integers(0, 25))
def test_random_round_trip(name, seed, count):
    program = _program(name, seed, count)
    assert parse(to_text(program)) == program
    assert Program.from_json(program.to_json()) == program


def test_language_of_shipped():
    assert [name for name in names() if extended_operations(load(name))] == EXTENDED
    everything = {op for name in EXTENDED for op in extended_operations(load(name))}
    assert everything == {op.name for op in OPS.values() if op.extended}  # none is in the language without need


def test_load_from_files(tmp_path):
    lion = load("lion")
    (tmp_path / "a.txt").write_text(to_text(lion))
    (tmp_path / "a.json").write_text(lion.to_json())
    assert load(tmp_path / "a.txt") == load(str(tmp_path / "a.json")) == lion
    with pytest.raises(ProgramError, match=r"no such program or file; shipped programs: adafactor, .*sgd"):
        load(tmp_path / "absent.txt")
    (tmp_path / "bad.txt").write_text("def train(w, g, lr):\n    update = foo(g)\n    return update")
    with pytest.raises(ProgramError, match=r"bad\.txt: line 2: unknown function 'foo'"):
        load(tmp_path / "bad.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ProgramError, match="cannot be read"):
        load(tmp_path / "binary.txt")


@pytest.mark.parametrize("name", [*SHIPPED, *schedule_names()])
def test_an_exported_file_is_a_program_file(name, tmp_path):
    program = load(name)
    files = {"optax.py": to_python(program, "rule")}
    if name in ("lion", "adamw"):
        files["pallas.py"] = to_pallas(program, "rule")
    for file, text in files.items():
        (tmp_path / file).write_text(text)
        assert load(tmp_path / file) == program


@pytest.mark.parametrize("text", ["", "x = (", "def train(w, g, lr): pass", '"""A module.\n\ndef train(w, g, lr):\n"""', "\0"])
def test_other_python_files_are_refused(text, tmp_path):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ProgramError, match=r"mine\.py: no file that stepsmith exported"):
        load(tmp_path / "mine.py")


def test_nesting_becomes_one_statement_an_operation():
    program = parse("def train(w, g, t1, lr):\n    update = -sin(g) ** 2 * lr\n    t1 = interpolate(g, t1, -.5)\n    return update, t1")
    assert program.states == ("t1",)
    assert program.statements == (
        Statement("t2", "sin", ("g",)),
        Statement("t3", "power", ("t2", 2.0)),
        Statement("t4", "negative", ("t3",)),
        Statement("update", "multiply", ("t4", "lr")),
        Statement("t1", "interp", ("g", "t1", -0.5)),
    )


def _body(*lines, signature="w, g, m, lr", end="return update, m"):
    return "\n    ".join([f"def train({signature}):", *lines, *([end] if end else [])])


OK = "update = g * lr"
DEEP = "update = " + "sin(" * 22 + "g" + ")" * 22
MALFORMED = {
    "unknown function": (_body(OK, "x = relu(g)"), 3, "unknown function 'relu'"),
    "undefined variable": (_body("x = sin(y)", OK), 2, "'y' is used before it is assigned"),
    "used before assigned": (_body("x = sin(update)", OK), 2, "'update' is used before"),
    "wrong arity": (_body("x = sin(g, g)", OK), 2, "sin takes 1 argument(s), got 2"),
    "arity of interp": (_body(OK, "x = interp(g, g)"), 3, "interp takes 3 argument(s), got 2"),
    "keywords": (_body("x = sin(x=g)", OK), 2, "no expression of the language"),
    "starred": (_body("x = sin(*g)", OK), 2, "no expression of the language"),
    "attribute": (_body("x = g.shape", OK), 2, "no expression of the language"),
    "method": (_body("x = g.sum()", OK), 2, "no expression of the language"),
    "dunder": (_body("x = ().__class__", OK), 2, "no expression of the language"),
    "subscript": (_body("x = g[0]", OK), 2, "no expression of the language"),
    "comprehension": (_body("x = [y for y in g]", OK), 2, "no expression of the language"),
    "lambda": (_body("x = (lambda: g)()", OK), 2, "no expression of the language"),
    "conditional": (_body("x = g if lr else w", OK), 2, "no expression of the language"),
    "comparison": (_body("x = g > 0", OK), 2, "no expression of the language"),
    "floor division": (_body("x = g // 2", OK), 2, "no expression of the language"),
    "walrus": (_body("x = (y := g)", OK), 2, "no expression of the language"),
    "string": (_body("x = 'text'", OK), 2, "'text' is not a number"),
    "boolean": (_body("x = g * True", OK), 2, "True is not a number"),
    "complex": (_body("x = g * 1j", OK), 2, "1j is not a number"),
    "infinite": (_body("x = g * 1e999", OK), 2, "must be finite"),
    "huge integer": (_body("x = g * 1" + "0" * 400, OK), 2, "must be finite"),
    "import inside": (_body("import os", OK), 2, "expected an assignment"),
    "import outside": ("import os\n" + _body(OK), 1, "expected one function"),
    "loop": (_body("for i in g:\n        x = i", OK), 2, "expected an assignment"),
    "while": (_body("while lr:\n        x = g", OK), 2, "expected an assignment"),
    "if": (_body("if lr:\n        x = g", OK), 2, "expected an assignment"),
    "inner function": (_body("def f(x):\n        return x", OK), 2, "expected an assignment"),
    "bare call": (_body("sin(g)", OK), 2, "expected an assignment"),
    "augmented": (_body(OK, "update += g"), 3, "expected an assignment"),
    "annotated": (_body("x: float = 1.0", OK), 2, "expected an assignment"),
    "tuple target": (_body("x, y = g, g", OK), 2, "expected an assignment"),
    "two targets": (_body("x = y = g", OK), 2, "expected an assignment"),
    "assigned function": (_body("sin = g", OK), 2, "is a function of the language"),
    "assigned alias": (_body("interpolate = g", OK), 2, "is a function of the language"),
    "early return": (_body("return g", OK), 2, "expected an assignment"),
    "missing return": (_body(OK, end=None), 2, "the last line must be `return update, m`"),
    "return order": (_body(OK, end="return m, update"), 3, "must be `return update, m`"),
    "return too few": (_body(OK, end="return update"), 3, "must be `return update, m`"),
    "return expression": (_body(OK, end="return g * lr, m"), 3, "must be `return update, m`"),
    "empty return": (_body(OK, end="return"), 3, "must be `return update, m`"),
    "selection as interp weight": (_body("x = interp(g, m, on_matrices(0.9, 0.99))", OK), 2, "must be a scalar, t1 is one of kind leaf"),
    "arguments of a constant": (_body("x = num_rows(g)", OK), 2, "num_rows takes 0 argument(s), got 1"),
    "matrix product": (_body("x = g @ g", OK), 2, "no expression of the language"),
    "no update": (_body("x = g"), 3, "`update` is never assigned"),
    "decorator": ("@jit\n" + _body(OK), 2, "without defaults, `*` or decorators"),
    "default": (_body(OK, signature="w, g, m, lr=1"), 1, "without defaults"),
    "star": (_body(OK, signature="w, g, m, lr, *rest"), 1, "without defaults"),
    "keyword only": (_body(OK, signature="w, g, m, *, lr"), 1, "without defaults"),
    "order of inputs": (_body(OK, signature="g, w, m, lr"), 1, "the inputs are w, g"),
    "no lr": (_body(OK, signature="w, g, m"), 1, "the inputs are w, g"),
    "unknown input": (_body(OK, signature="w, g, m, lr, epoch"), 1, "unknown input 'epoch'"),
    "repeated state": (_body(OK, signature="w, g, w, lr", end="return update, w"), 1, "must be distinct"),
    "state named update": (_body(OK, signature="w, g, update, lr", end="return update, update"), 1, "none of them `update`"),
    "too many states": (_body(OK, signature="w, g, a, b, c, d, e, f, h, lr", end="return update, a, b, c, d, e, f, h"), 1, "at most 6"),
    "array as interp weight": (_body("x = interp(g, m, w)", OK), 2, "weight of interp must be a scalar, w is one of kind array"),
    "leaf scalar as clip bound": (_body(OK, "n = norm(g)", "x = clip(g, n)"), 4, "bound of clip must be a scalar, n is one of kind leaf"),
    "too deep": (_body(DEEP), 2, "nested deeper than 20"),
    "very deep minus": (_body("update = " + "-" * 400 + "g"), 2, "nested deeper than 20"),
    "too many statements": (_body(*[OK] * 65), 66, "more than 64 statements"),
    "async": ("async " + _body(OK), 1, "expected one function"),
    "class": ("class A:\n    pass", 1, "expected one function"),
    "expression": ("sin(g)", 1, "expected one function"),
    "two functions": (_body(OK) + "\n" + _body(OK), 1, "expected one function"),
    "empty": ("", 1, "expected one function"),
    "syntax": (_body("x = = g", OK), 2, "not Python syntax"),
    "indentation": ("def train(w, g, lr):\nupdate = g", 2, "not Python syntax"),
    "null": ("def train(w, g, lr):\n\x00", None, "not Python syntax"),
    "too long": ("#" * 50_001, None, "at most 50000 are allowed"),
    "very deep brackets": (_body("update = " + "(" * 5000 + "g" + ")" * 5000), None, "not Python syntax"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(case):
    text, line, reason = MALFORMED[case]
    with pytest.raises(ProgramError) as caught:
        parse(text, "file.txt")
    assert reason in caught.value.reason
    if line is not None:
        assert caught.value.line == line
        assert str(caught.value).startswith(f"file.txt: line {line}: ")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1, 2]",
        "[[], [], 3]",
        '[["m"], [], [["x", "sin"]]]',
        '[["m"], [], [["x", "sin", [true]]]]',
        '[["m"], [], [["x", "sin", [null]]]]',
        '[["m", "m"], [], []]',
        '[["update"], [], []]',
        '[["m"], ["epoch"], []]',
        '[["a b"], [], []]',
        "[" * 100_000,
    ],
)
def test_malformed_json(text):
    with pytest.raises(ProgramError):
        Program.from_json(text)


FRAGMENTS = [
    "def train(w, g, m, lr):",
    "\n    ",
    "update = ",
    "return update, m",
    "sin(",
    "g",
    ")",
    " + ",
    "-",
    "1e999",
    "m",
    ",",
    "lambda: ",
    "[",
    "]",
    "\\",
    "'''",
]


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.one_of(st.text(max_size=200), st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join)))
@example("\ud800")
@example(_body("update = " + "-" * 800 + "1"))
@example(_body("update = " + "-" * 2500 + "1"))
@example(_body("update = g % " + "sin(" * 150 + "g" + ")" * 150))
@example(_body("update = g % " + "-" * 800 + "g"))
@example(_body("update = " + " + ".join(["g"] * 900)))
@example(_body("update = 0 " + "and 0 " * 3000))
@example(_body("update = g" + ".a" * 700))
def test_text_raises_nothing_but_program_error(text):
    try:
        program = parse(text)
    except ProgramError as error:
        assert error.reason
    else:
        assert parse(to_text(program)) == program
