"""Programs as text and as JSON, their names, and the files that they are exported to."""

import json

from fuzz_outcome import VALID, Kind, refusal
from hypothesis import strategies as st

from stepsmith.discovery.export import to_optax
from stepsmith.discovery.language import OPS, Program, ProgramError, canonical_hash, infer, load, names, parse, prune, to_text

SHIPPED = tuple(to_text(load(name)) for name in names())
SHIPPED_JSON = tuple(load(name).to_json() for name in names())
HEAD, TAIL = "def train(w, g, m, lr):\n    ", "\n    return update, m"

ANYTHING = st.text(max_size=300) | st.text(st.characters(codec=None, categories=("Cs", "Cc", "Zs", "Nd", "Ll")), max_size=60)
NUMBERS = st.sampled_from(
    ["0", "1", "-1", "0.9", "1e999", "-1e-320", "9" * 400, "9" * 5000, "0x" + "f" * 300, "1_0", "1j", "nan", "True", "07"]
)
WORDS = [
    *OPS,
    "w",
    "g",
    "m",
    "v",
    "lr",
    "step",
    "progress",
    "update",
    "t1",
    "x",
    "sin(",
    "interp(",
    "(",
    ")",
    ",",
    "=",
    "+",
    "-",
    "*",
    "/",
    "**",
    "//",
    "@",
]
WORDS += [
    "\n    ",
    "\n",
    " ",
    "\t",
    ":",
    "[",
    "]",
    "{",
    "}",
    ".",
    ";",
    "\\\n",
    "#",
    "'",
    '"',
    "'''",
    "def",
    "train",
    "return",
    "lambda",
    "if",
    "else",
    "not",
]
WORDS += [
    "while",
    "import",
    "await",
    "yield",
    "async",
    "class",
    "del",
    "None",
    "__debug__",
    "ﬁ",
    "\x00",
    "\ud800",
    "\u2028",
    "\x1b[31m",
    "\f",
    HEAD,
    TAIL,
]
TOKENS = st.lists(st.sampled_from(WORDS) | NUMBERS, max_size=60).map("".join)
EXPRESSIONS = st.recursive(
    st.sampled_from(["w", "g", "m", "lr", "x", "update"]) | NUMBERS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "**", "%", "<", " and "]), inner).map("".join),
        st.tuples(st.sampled_from(sorted(OPS)), st.lists(inner, max_size=3)).map(lambda call: f"{call[0]}({', '.join(call[1])})"),
        inner.map("-{}".format),
        inner.map("({})".format),
    ),
    max_leaves=12,
)
STATE_NAMES = st.sampled_from(
    ["m", "v", "sin", "lr", "w", "update", "step", "None", "ﬁ", "__debug__", "state", "params", "leaf", "x_factor", "é"]
    + ["rows", "mean", "_as_matrix"]
)


@st.composite
def functions(draw):
    """Well-formed functions of random expressions; many are valid programs."""
    states = draw(st.lists(STATE_NAMES, max_size=3, unique=True))
    extra = draw(st.lists(st.sampled_from(["step", "progress", "epoch"]), max_size=1))
    targets = st.sampled_from(["x", "update", "t1", "g", "lr", "_a", *states])
    lines = draw(st.lists(st.tuples(targets, EXPRESSIONS).map(" = ".join), max_size=5))
    lines.append(f"update = {draw(EXPRESSIONS)}")
    body = "\n".join(f"    {line}" for line in lines)
    return f"def train({', '.join(['w', 'g', *states, 'lr', *extra])}):\n{body}\n    return {', '.join(['update', *states])}"


def _edited(originals):
    """Valid texts after deletions, insertions and swaps."""
    fragments = st.sampled_from(WORDS) | NUMBERS | st.text(max_size=3)
    edit = st.tuples(st.sampled_from(["delete", "insert", "swap", "repeat"]), st.floats(0, 1), st.integers(0, 30), fragments)

    def apply(case):
        text, edits = case
        for what, at, size, fragment in edits:
            i = int(at * len(text))
            if what == "delete":
                text = text[:i] + text[i + size :]
            elif what == "insert":
                text = text[:i] + fragment + text[i:]
            elif what == "swap":
                text = text[:i] + text[i + size : i + 2 * size] + text[i : i + size] + text[i + 2 * size :]
            else:
                text = text[:i] + text[i : i + size] * 3 + text[i + size :]
        return text

    return st.tuples(st.sampled_from(originals), st.lists(edit, min_size=1, max_size=4)).map(apply)


@st.composite
def extremes(draw):
    """Deep nesting and very long lines."""
    unit, close = draw(
        st.sampled_from([("(", ")"), ("sin(", ")"), ("-", ""), ("[", "]"), ("{", "}"), ("g + ", ""), ("g.", ""), ("not ", "")])
    )
    count = draw(st.sampled_from([1, 5, 19, 20, 21, 99, 200, 1_000, 5_000, 20_000]))
    text = f"{HEAD}update = {unit * count}g{close * (count - draw(st.integers(0, 1)))}{TAIL}"
    return draw(st.sampled_from([text, text + " " * 60_000, text.replace("\n", "\r\n"), text.replace("update", "update" * count)]))


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 1e308])
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
STATEMENTS = st.tuples(
    STATE_NAMES | st.just("update"),
    st.sampled_from(sorted(OPS)) | st.text(max_size=3),
    st.lists(st.sampled_from(["w", "g", "lr", "m", "y"]) | st.floats() | JSON_VALUES, max_size=3),
)
MAPS = st.tuples(
    st.sampled_from(["x", "update", "m", "lr"]),
    st.just("maximum"),
    st.lists(st.sampled_from(["w", "g", "m", 0.5, 2]), min_size=2, max_size=2),
)
WELL_FORMED = st.tuples(st.just(["m"]), st.sampled_from([[], ["step"]]), st.lists(MAPS | STATEMENTS, min_size=1, max_size=3))
PROGRAM_JSON = st.tuples(
    st.lists(STATE_NAMES, max_size=3),
    st.lists(st.sampled_from(["step", "progress"]), max_size=2),
    st.lists(STATEMENTS | JSON_VALUES, max_size=4),
)


def check_text(text):
    try:
        program = parse(text)
    except ProgramError as error:
        assert error.reason
        return refusal(error)
    return _check_program(program)


def check_json(text):
    try:
        program = Program.from_json(text)
        infer(program)
    except ProgramError as error:
        return refusal(error)
    return _check_program(program)


def _check_program(program):
    """What a valid program can do: it is printed, stored and read again, typed, hashed, pruned and exported."""
    assert len(infer(program)) == len(program.statements)
    assert parse(to_text(program)) == program == Program.from_json(program.to_json())
    assert len(canonical_hash(program)) == 32 and canonical_hash(prune(program)) == canonical_hash(program)
    compile(to_optax(program), "exported", "exec")
    return VALID


def check_name(name):
    """The name of an exported function: an identifier that does not break the file."""
    for program in (load("lion"), load("adamw_corrected"), load("muon")):
        try:
            text = to_optax(program, name)
        except ProgramError as error:
            return refusal(error)
        compile(text, "exported", "exec")
    return VALID


def check_program_name(name):
    """A shipped program's name or a file's path."""
    try:
        return _check_program(load(name))
    except ProgramError as error:
        return refusal(error)


NAMES = ANYTHING | st.sampled_from(
    ["lion", "jnp", "_dot", "lambda", "ﬁ", "optax", "a" * 70, "update_fn", "state", "é", "__debug__"] + ["orthogonalize", "_as_matrix"]
)
KINDS = (
    Kind(
        "program text",
        ANYTHING | TOKENS | extremes(),
        check_text,
        ("\ud800", f"{HEAD}update = {'print ' * 8_000}", f"{HEAD}x = '\n\n'{TAIL}"),
    ),
    Kind("program text, well-formed", functions() | TOKENS.map(lambda tokens: HEAD + tokens + TAIL), check_text),
    Kind("program text, edited", _edited(SHIPPED), check_text),
    Kind("program JSON", ANYTHING | JSON_VALUES.map(json.dumps) | (PROGRAM_JSON | WELL_FORMED).map(json.dumps), check_json),
    Kind("program JSON, edited", _edited(SHIPPED_JSON), check_json),
    Kind("exported function's name", NAMES, check_name),
    Kind("program's name or path", NAMES, check_program_name),
)
