"""The digest of a program's code, which makes its jobs run again when the code moved."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from pathlib import Path

from study.stacks import STACKS

SCRIPTS = Path(__file__).resolve().parent.parent


@functools.cache
def code_digest(rule: str, environment: str = "train") -> str:
    """sha256 (16 hexadecimal digits) over the program of a rule and every project module that it really imports.

    environment: the one that it runs in. Modules whose name ends with that of a stack are of that stack alone.
    """
    others = tuple(stack for stack, name in STACKS.items() if name != environment)
    found, waiting = {}, [SCRIPTS / f"{rule}.py"]
    while waiting:
        path = waiting.pop()
        name = str(path.relative_to(SCRIPTS))
        if name not in found and not (environment in STACKS.values() and path.stem.endswith(others)):
            found[name], files = module_facts(path)
            waiting.extend(files)
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


@functools.cache
def module_facts(path: Path) -> tuple[str, list[Path]]:
    """A module's code without comments and docstrings, which never make a job run again; and the project files that it
    imports, at its top or inside functions, by absolute or relative name.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    files: list[Path] = []
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            first.value.value = ""
        folder, names = SCRIPTS, []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            folder = path.parents[node.level - 1] if node.level else SCRIPTS
            stem = f"{node.module}." if node.module else ""
            names = [stem.rstrip("."), *(stem + alias.name for alias in node.names)]
        for name in names:
            file = folder.joinpath(*name.split("."))
            files += filter(Path.is_file, (file.with_suffix(".py"), file / "__init__.py"))
    return ast.unparse(tree), files
