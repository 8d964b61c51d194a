"""Recipes drawn at random, right and wrong fields mixed: YAML as people and programs might write it, and flags.

Whatever is read must end in a recipe or in an `UntrainError`, and so must whatever is run. `rng` is a `random.Random`,
or hypothesis's, which then finds the smallest recipe that fails.
"""

from untrain import registry
from untrain.methods import METHODS
from untrain.runs.recipe import common_settings
from untrain.settings import settings_of

TASKS = ("classification", "class-diffusion", "text-to-image")
ODD_VALUES = (
    *("x", "''", "null", "~", ".inf", "-.inf", ".nan", "1e400", "-1e400", "1" + "0" * 400, "1" + "0" * 5000, "-5", "0"),
    *("0x1F", "0o17", "017", "1_000", "yes", "no", "on", "True", "2020-01-01", "2020-01-01T00:00:00Z", "12:30:45"),
    *("2020-13-45", "!!python/object/apply:os.system [x]", "!!binary aGk=", "!!binary '%'", "!!set {a, b}", "!!int x"),
    *("!!float x", "!!bool x", "!!timestamp x", "!!omap [a: 1]", "!!omap [1]", "!!pairs [a: 1]", "!!null x", "!mine x"),
    *(
        "&a [1, *a]",
        "*nope",
        "{<<: {a: 1}}",
        "{<<: 3}",
        "{<<: [{a: 1}, 3]}",
        "{=: 1}",
        "=",
        "[1, 2]",
        "[]",
        "{}",
        "{a: 1}",
    ),
    *(
        '"a\\0b"',
        '"\\ud800"',
        '"\\U0001F986"',
        "🦆",
        "ü" * 300,
        "long" * 20_000,
        "[" * 15 + "]" * 15,
        "[" * 300 + "]" * 300,
    ),
    *(
        "- x",
        "|",
        "@x",
        "%x",
        "'unterminated",
        "{",
        "[a, b: c]",
        "? a",
        "!!str 3",
        "-0.0",
        "1e-3",
        "1.",
        ".5",
        "+1",
        "--1",
    ),
    *(
        "18446744073709551616",
        "9223372036854775808",
        "-9223372036854775809",
        "{1: 2}",
        "{null: 1}",
        "{[1]: 2}",
        "{? {a}: 1}",
    ),
    *(
        "../x",
        "a/b",
        "/dev/null",
        "os:system",
        "hf:nope",
        "\u2028",
        "\x07",
        "\ufeff",
        "{true: 1}",
        "{2020-01-01: 1}",
        "[.nan]",
    ),
    *(
        "!!set {1: }",
        "[null, x, 3]",
        "{a: {a: {a: {a: 1}}}}",
        "&x {x: *x}",
        "'null'",
        "<",
        ">",
        "&",
        "*",
        "!",
        "!!",
        "1e3",
    ),
)
"""Texts that hardly any field can have."""


def random_recipe(rng):
    """Draws the text of a recipe; of the fields that a task has, some with values of their types, some with others."""
    share = rng.choice((0, 0.03, 0.1, 0.4))
    task = rng.choice(TASKS)
    lines = [f"task: {task if rng.random() > share / 2 else rng.choice(ODD_VALUES)}"]
    fields = list((common_settings() | settings_of(registry.entry(task).Sections)).values())
    for setting in rng.sample(fields, rng.randint(0, 8)):
        if setting.name not in ("task", "forget"):
            lines += _lines(rng, setting, share, 0)
    lines += _methods(rng, share)
    if task != "text-to-image":
        request = (
            "classes: [3]",
            "fraction: 0.1",
            "count: 5",
            "fraction: 0.1, count: 5",
            "classes: [nope]",
            "classes: 3",
        )
        lines.append(f"forget: {{{rng.choice(request)}}}")
    for spoil in (_twice, _unknown, _indented, _garbage):
        if rng.random() < share / 4:
            lines = spoil(rng, lines)
    return "\n".join(lines) + "\n"


def random_flags(rng):
    """Draws flags of a command line that goes with `random_recipe`."""
    flags = []
    for _ in range(rng.choice((0, 0, 1, 2))):
        name = rng.choice((*common_settings(), "data.limit", "methods.sfron.alpha", "method", "nope", "a..b", "", "."))
        value = rng.choice((*ODD_VALUES, "1", "cpu", "sfron", "a\0b", "\udc80"))
        flags += [f"--{name}={value}"] if rng.random() < 0.9 else [f"--{name}"]
    return flags


def _lines(rng, setting, share, depth):
    """A field as lines of YAML."""
    before = "  " * depth + setting.name
    if setting.section is None or rng.random() < share:
        return [f"{before}: {_value(rng, setting, share)}"]
    inner = list(settings_of(setting.section).values())
    chosen = rng.sample(inner, rng.randint(0, min(3, len(inner))))
    lines = [line for each in chosen for line in _lines(rng, each, share, depth + 1)]
    return [f"{before}:", *lines] if lines else [f"{before}: {{}}"]


def _value(rng, setting, share):
    if rng.random() < share or setting.item is not None:
        return rng.choice(ODD_VALUES)
    return _fitting(rng, setting.schema)


def _fitting(rng, schema):
    """A value of a type, by its JSON schema."""
    if "anyOf" in schema:
        return _fitting(rng, rng.choice(schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return f'"{rng.choice(schema.get("enum", [schema.get("const")]))}"'
    kind = schema.get("type")
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", schema.get("exclusiveMaximum", low + 10))
    if kind == "integer":
        return rng.choice((low, low + 1, min(high, low + 7), high))
    if kind == "number":
        return rng.choice((low, (low + high) / 2, high, low + 1e-9, 1e300))
    if kind == "array":
        return f"[{', '.join(str(_fitting(rng, schema.get('items', {}))) for _ in range(rng.randint(0, 3)))}]"
    return {
        "boolean": rng.choice(("true", "false")),
        "string": rng.choice(("cpu", "x", "sfron", '""')),
        "null": "null",
    }.get(kind, "{}")


def _methods(rng, share):
    lines = ["methods:"]
    for name in rng.sample([*METHODS], rng.randint(1, 3)):
        settings = list(settings_of(METHODS[name]).values())
        chosen = rng.sample(settings, rng.randint(0, min(4, len(settings))))
        inner = [line for each in chosen for line in _lines(rng, each, share, 2)]
        lines += [f"  {name}:", *inner] if inner else [f"  {name}: {{}}"]
    if rng.random() < share:
        lines.append(f"  {rng.choice(ODD_VALUES)}: {rng.choice(ODD_VALUES)}")
    return [f"methods: {rng.choice(ODD_VALUES)}"] if rng.random() < share / 4 else lines


def _twice(rng, lines):
    return [*lines, rng.choice(lines)]


def _unknown(rng, lines):
    return [*lines, f"{rng.choice(ODD_VALUES)}: {rng.choice(ODD_VALUES)}"]


def _indented(rng, lines):
    at = rng.randrange(len(lines))
    return [*lines[:at], rng.choice((" ", "\t", "      ")) + lines[at], *lines[at + 1 :]]


def _garbage(rng, lines):
    at = rng.randrange(len(lines) + 1)
    return [
        *lines[:at],
        rng.choice(("---", "...", "\0", "%YAML 9.9", "- a", "\x85", rng.choice(ODD_VALUES))),
        *lines[at:],
    ]


# ── recipes that are run ────────────────────────────────────────────────────────────────────────────────────────


def runnable_recipe(rng, folder):
    """Draws a recipe of few samples and steps, every field in its range and some of them odd; returns its text."""
    share = rng.choice((0.03, 0.06, 0.12))

    def odd(usual, *others):
        return rng.choice(others) if rng.random() < share else usual

    methods = [name for name, kind in METHODS.items() if not kind.generates]
    name, optimizer = rng.choice(methods), rng.choice(("sgd", "adam", "adamw"))
    settings = {
        "steps": odd(2, 1, 3),
        "optimizer": f"{{name: {optimizer}, lr: {odd(0.05, 1e9, 1e-12, 1e38, 'null')}, momentum: 0}}",
    }
    known = settings_of(METHODS[name])
    for other in rng.sample([*known], min(2, len(known))):
        if share > 0.1 and other not in ("epochs", "online", "published"):
            settings[other] = _fitting(rng, known[other].schema) if known[other].section is None else "{}"
    inner = ", ".join(f"{key}: {value}" for key, value in settings.items() if key in known)
    statistics = odd(("null", "null"), *_STATISTICS)
    forget = odd(rng.choice(("classes: [3]", "fraction: 0.1", "count: 5")), *_REQUESTS)
    model = odd("small-cnn, options: {width: 4}", "resnet20", "nope")
    return f"""\
name: odd
out: {folder}
device: cpu
data:
  name: digits
  limit: {odd(60, 10, 11, 40)}
  test_limit: {odd(30, 10, 1, 5)}
  image_size: {odd("null", 1, 2, 3, 7, 8, 9, 16, 31, 64)}
  grayscale: {odd("false", "true")}
  mean: {statistics[0]}
  std: {statistics[1]}
augment: {{pad: {odd(0, 1, 8, 100, 5000, 2**62)}, flip: {odd("false", "true")}}}
forget: {{{forget}, holdout: {odd(0.1, 0, 0.5, 0.99, 0.9999999, 1e-9)}, holdout_from: {odd("null", "test", "train")}}}
model: {{name: {model}}}
batch_size: {odd(16, 1, 2, 1000, 2147483647)}
seed: {odd(0, 1, 2**63 - 1)}
references: {odd(0, 1, 2)}
precision: {odd('"no"', "bf16", "bf16")}
workers: {odd(0, 1)}
evaluate_every: {odd(0, 1, 100)}
checkpoint_every: {odd(60, 0)}
svc_attacks: {odd("false", "true")}
parts: {odd("null", "full", "'*.weight'", "['*bias']", "xattn", "nope")}
train: {{steps: {odd(2, 1)}, optimizer: {{name: sgd, lr: {odd(0.05, 1e30, 1e-30, "null")}}}, ema: {odd("null", 0.5)}}}
methods:
  {name}: {{{inner}}}
"""


_STATISTICS = (
    *(("[0.5]", "[0.5]"), ("[]", "[]"), ("[0.5, 0.5, 0.5]", "[0.5, 0.5, 0.5]"), ("[0.5]", "[0]"), ("[0.5]", "[1e-45]")),
    *(("[-3]", "[1e30]"), ("[1e38]", "[0.5]"), ("[0.5]", "null"), ("[1e300]", "[1e-300]"), ("[0.5]", "[-1]")),
)
_REQUESTS = (
    *("classes: []", "classes: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]", "classes: ['3', 3]", "classes: [10]", "classes: [-1]"),
    *("classes: [nope]", "indices: nope.csv", "ids: nope.csv", "fraction: 0.001", "fraction: 0.999", "count: 1"),
    *("count: 59", "count: 1000000", "after: nope", "classes: [0, 1, 2, 3, 4, 5, 6, 7, 8]", "fraction: 0.9"),
)
