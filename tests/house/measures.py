"""The measures of the house, read from the source text alone: sizes, directions of imports, circles, what rules hold.

Each check takes the repository's folder and returns what is wrong as lines, none if all is well. ruff keeps the
complexity of a function (pyproject.toml). `python tests/house/measures.py` prints what is wrong.
"""

import ast
import functools
import re
import sys
from pathlib import Path

FUNCTION, MODULE, RULES, SNAKEFILE = 60, 400, 705, 100  # lines at most: of each, each, all together, it
PACKAGES = ("study", "arms", "paired", "display")
ROOMS = (
    "job",
    "stacks",
    "model",
    "data",
    "scoring",
    "judging",
    "training",
    "memory",
)  # of arms; each sees only those before
# package: what it may import of the others
SEES = {
    "study": ("paired.forecast", "arms.data.head"),
    "arms": ("study",),
    "paired": (),
    "display": ("study", "arms.job", "paired"),
}
HEAVY = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes")
DRIVER = ("snakemake", "snakemake_interface_executor_plugins", "yaml", "jsonschema")  # no other environment has them


def modules(root: Path) -> dict[str, Path]:
    """Name, as an import writes it, of every module in scripts/ (a program has its plain name)."""
    scripts = root / "scripts"
    found = {}
    for path in sorted(scripts.rglob("*.py")):
        parts = path.relative_to(scripts).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, name: str) -> set[str]:
    """Everything that a module's imports name, inside functions and for type checkers too."""
    return named(path.read_text(encoding="utf-8"), name if path.name == "__init__.py" else name.rpartition(".")[0])


@functools.cache
def named(text: str, package: str) -> set[str]:
    """The same of a module's text in a package; cached, since tests ask for copies that differ in one file."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            stem = ".".join([*parents, *filter(None, [node.module])])
            found |= {stem, *(f"{stem}.{alias.name}" for alias in node.names)}
    return found


def graph(root: Path) -> dict[str, set[str]]:
    """Module -> modules of scripts/ that it imports. `from arms.data import audit` imports arms.data.audit."""
    known = modules(root)
    edges = {}
    for name, path in known.items():
        asked = imported(path, name)
        deepest = {one for one in asked if not any(other.startswith(f"{one}.") and other in known for other in asked)}
        edges[name] = {one for one in deepest if one in known and one != name}
    return edges


def is_within(module: str, package: str) -> bool:
    """Whether a module is a package or lies in it."""
    return module == package or module.startswith(f"{package}.")


def too_long(root: Path) -> list[str]:
    """Functions of more than 60 lines (def to end), modules of more than 400."""
    wrong = []
    for path in sorted([*(root / "scripts").rglob("*.py"), *(root / "tools").rglob("*.py")]):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(root)
        if (lines := len(text.splitlines())) > MODULE:
            wrong.append(f"{name}: {lines} lines, at most {MODULE}")
        for function, lines in functions(text):
            if lines > FUNCTION:
                wrong.append(f"{name}: {function} has {lines} lines, at most {FUNCTION}")
    return wrong


@functools.cache
def functions(text: str) -> list[tuple[str, int]]:
    """(name, lines from def to end) of every function of a module's text."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [(node.name, node.end_lineno - node.lineno + 1) for node in nodes]


def against_the_direction(root: Path) -> list[str]:
    """Imports between packages, rooms and programs that go the wrong way."""
    wrong = []
    for importer, targets in graph(root).items():
        package = importer.partition(".")[0]
        for target in sorted(targets):
            if target.partition(".")[0] not in PACKAGES:
                wrong.append(f"{importer} imports the program {target}")
            elif package in PACKAGES and not is_within(target, package):
                if not any(is_within(target, seen) for seen in SEES[package]):
                    wrong.append(f"{importer} imports {target}: {package} sees {', '.join(SEES[package]) or 'nothing'}")
            elif package == "arms" and importer.count(".") and target.count("."):
                here, there = importer.split(".")[1], target.split(".")[1]
                if ROOMS.index(there) > ROOMS.index(here):
                    wrong.append(f"{importer} imports {target}: {here} comes before {there}")
    return wrong


def circles(root: Path) -> list[str]:
    """Modules that import themselves by way of others."""
    edges, wrong = graph(root), []
    for start in sorted(edges):
        ways, seen = [[start]], set()
        while ways:
            way = ways.pop(0)
            for target in sorted(edges[way[-1]]):
                if target == start and start == min(way):
                    wrong.append(" -> ".join([*way, start]))
                    ways = []
                    break
                if target not in seen:
                    seen.add(target)
                    ways.append([*way, target])
    return wrong


def not_there_at_run_time(root: Path) -> list[str]:
    """Packages named where their environment is not: torch and its like in study or paired, Snakemake outside study.

    Programs and packages run in environments without Snakemake: of study they may import, directly or not, only what
    needs none.
    """
    edges, known, wrong = graph(root), modules(root), []
    outside = {name: {one.partition(".")[0] for one in imported(path, name)} for name, path in known.items()}
    for name in known:
        package = name.partition(".")[0]
        if package in ("study", "paired"):
            wrong += [f"{name} imports {heavy}" for heavy in HEAVY if heavy in outside[name]]
        if package == "study":
            continue
        reached, waiting = set(), [name]
        while waiting:
            one = waiting.pop()
            if one not in reached:
                reached.add(one)
                waiting += [target for target in edges[one] if is_within(target, "study")]
        reached = {one for one in reached if is_within(one, "study")}
        wrong += [
            f"{name} reaches {one}, which needs {pin}" for one in reached for pin in DRIVER if pin in outside[one]
        ]
    return sorted(wrong)


def more_than_rules(root: Path) -> list[str]:
    """What rules/ holds besides rules: functions, imports, loops, statements; and whether it grew too long."""
    wrong, total = [], 0
    allowed = re.compile(r"rule \w+:|use rule |if config\[|[A-Z_]+ = |[)\]}]|#|@")
    python = re.compile(r"\s*(def|class|import|from|for|while|with|try|async|return)\b(?!:$)")
    for path in sorted((root / "rules").glob("*.smk")):
        text = path.read_text(encoding="utf-8")
        total += sum(1 for line in text.splitlines() if line.strip())
        bare = re.sub(r'""".*?"""', lambda found: re.sub(r"[^\n]", "", found[0]), text, flags=re.DOTALL)
        for number, line in enumerate(bare.splitlines(), 1):
            unknown = line[:1].strip() and not allowed.match(line)
            if unknown or python.match(line):
                wrong.append(f"rules/{path.name}, line {number}: {line.strip()!r} is no part of a rule")
            if "lambda" in line and len(line.split("lambda", 1)[1]) > 110:
                wrong.append(f"rules/{path.name}, line {number}: a long lambda; give it a name in scripts/study/")
    if total > RULES:
        wrong.append(f"rules/: {total} lines that are not blank, at most {RULES}")
    lines = len((root / "Snakefile").read_text(encoding="utf-8").splitlines())
    return wrong + ([f"Snakefile: {lines} lines, at most {SNAKEFILE}"] if lines > SNAKEFILE else [])


CHECKS = (too_long, against_the_direction, circles, not_there_at_run_time, more_than_rules)

if __name__ == "__main__":
    found = [line for check in CHECKS for line in check(Path(__file__).resolve().parents[2])]
    print("\n".join(found))
    sys.exit(bool(found))
