"""Write docs/checklist.md from scripts/display/checklist.py: python tools/checklist.py [--check]."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from display.checklist import page


def main() -> None:
    """Write the page, or compare it."""
    path, text = ROOT / "docs" / "checklist.md", page()
    if "--check" not in sys.argv:
        path.write_text(text, encoding="utf-8")
    elif not path.is_file() or path.read_text(encoding="utf-8") != text:
        sys.exit("docs/checklist.md is out of step with scripts/display/checklist.py: run `make docs` and commit it")


if __name__ == "__main__":
    main()
