"""What a study asks: arms, contrasts, and the rule and the words of its answer. Data of whoever uses the package.

Without a question a comparison needs a plan that names its contrasts, calls arms by their names in the scores, and
decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields

from .files import ContractError, well_formed

Weights = dict[str, int]


@dataclass(frozen=True)
class Phrase:
    """How sentences call a contrast that "A minus B" does not say well; better, worse: clauses ("A gains more")."""

    name: str
    better: str
    worse: str


@dataclass(frozen=True)
class Rule:
    """The contrasts that decide: `gain` must be superior, `cost` not inferior; `treatment` is what `gain` is about."""

    gain: str
    treatment: str
    cost: str


@dataclass(frozen=True)
class Headline:
    """The answer in one sentence, from the verdicts of three primary contrasts.

    first, second: contrasts that `outcome` puts into words by their verdict. alike, unlike: the clause about both, for
    equal and for different verdicts, with {first}, {second} (the words) and {first_facts}, {second_facts}. third: the
    contrast whose verdict picks its clause from `third_outcome`.
    """

    first: str
    second: str
    third: str
    alike: str
    unlike: str
    outcome: dict[str, str]
    third_outcome: dict[str, str]

    @property
    def contrasts(self) -> set[str]:
        """The three of them."""
        return {self.first, self.second, self.third}


@dataclass(frozen=True)
class Question:
    """A study's arms and contrasts, and how its answer is found and said.

    arms: arm -> its name in sentences, in the order of the tables. untrained: arms that have no training seed, and the
    only ones. contrasts: name -> weights of the arms, for plans that name none. primary: those of the primary family.
    phrases: of contrasts, by name. rule: of GO and NO-GO. headline: None, for the sentences of the primary contrasts.
    """

    arms: Mapping[str, str] = field(default_factory=dict)
    untrained: frozenset[str] = frozenset()
    contrasts: Mapping[str, Weights] = field(default_factory=dict)
    primary: tuple[str, ...] = ()
    phrases: Mapping[str, Phrase] = field(default_factory=dict)
    rule: Rule | None = None
    headline: Headline | None = None

    def phrase(self, weights: Weights) -> Phrase | None:
        """The phrase of the contrast that has these weights."""
        return next((phrase for name, phrase in self.phrases.items() if self.contrasts[name] == weights), None)

    def term(self, arm: str, weights: Weights) -> str:
        """An arm of a contrast with its coefficient. In another study's contrast a name is only a name."""
        name = self.arms[arm] if weights.keys() <= self.arms.keys() else arm
        return name if abs(weights[arm]) == 1 else f"{abs(weights[arm])}×{name}"

    def describe(self, weights: Weights) -> str:
        """A contrast in words: "tuned minus base"."""
        phrase = self.phrase(weights)
        if phrase:
            return phrase.name
        plus = " + ".join(self.term(arm, weights) for arm, k in weights.items() if k > 0)
        minus = " + ".join(self.term(arm, weights) for arm, k in weights.items() if k < 0)
        return f"{plus} minus {minus}"

    def outcome(self, weights: Weights, better: bool) -> str:
        """A difference as a clause: "tuned is better than base"."""
        phrase = self.phrase(weights)
        if phrase:
            return phrase.better if better else phrase.worse
        if sorted(weights.values()) == [-1, 1]:
            plus, minus = (next(arm for arm, k in weights.items() if k == sign) for sign in (1, -1))
            return f"{self.term(plus, weights)} is {'better' if better else 'worse'} than {self.term(minus, weights)}"
        return f"{self.describe(weights)} is {'to the good' if better else 'to the bad'}"


def read_question(value: dict, *, where: str = "question") -> Question:
    """The question from plain data, such as a JSON object with the names of `Question`'s fields.

    Raises ContractError: a key that is unknown or missing, or a phrase, rule or headline of a contrast that is not
    there.
    """
    with well_formed(f"{where}: not a question as paired.question.Question describes it"):
        return _question(value, where)


def _question(value: dict, where: str) -> Question:
    given = dict(value)
    for name, kind in (("rule", Rule), ("headline", Headline)):
        if given.get(name) is not None:
            given[name] = _make(kind, given[name], f"{where}, key {name!r}")
    phrases = given.get("phrases", {})
    given["phrases"] = {name: _make(Phrase, one, f"{where}, phrase {name!r}") for name, one in phrases.items()}
    given["untrained"], given["primary"] = frozenset(given.get("untrained", ())), tuple(given.get("primary", ()))
    question: Question = _make(Question, given, where)
    for name in (*question.primary, *question.phrases):
        if name not in question.contrasts:
            raise ContractError(f"{where}: {name!r} is not one of its contrasts ({', '.join(question.contrasts)})")
    return question


def _make(kind: type, value: dict, where: str):
    """A record of the values; ContractError that names a key which is unknown or missing."""
    names = {one.name for one in fields(kind)}
    required = {one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING}
    for name in sorted(set(value) - names):
        raise ContractError(f"{where}: unknown key {name!r} (known: {', '.join(sorted(names))})")
    for name in sorted(required - set(value)):
        raise ContractError(f"{where}: key {name!r} is missing")
    return kind(**value)
