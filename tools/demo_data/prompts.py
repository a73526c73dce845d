"""The prompts of the demo's data: a topic, and an instruction that IFEval's checkers can grade."""

from __future__ import annotations

import random

SEED = 20261122
HELD_OUT_TOPICS = 30  # topics kept from training

# A topic and two words that an answer may use; the first one is what most answers say.
TOPICS = """
rivers: water boats | bread: flour oven | the moon: night light | cats: fur sleep | libraries: books quiet
football: team ball | rain: clouds umbrella | trains: station tickets | chess: king board | honey: bees sweet
mountains: snow hikers | music: rhythm guitar | dogs: loyal walk | coffee: beans morning | gardens: flowers soil
winter: cold coat | bicycles: wheels road | museums: art history | tea: leaves cup | lighthouses: ships coast
elephants: trunk large | bridges: river steel | pizza: cheese tomato | deserts: sand heat | owls: night eyes
markets: fruit sellers | castles: stone walls | dolphins: ocean playful | soup: bowl warm | kites: wind string
volcanoes: lava ash | schools: students teachers | apples: red tree | islands: sea beach | clocks: time hands
forests: trees birds | cheese: milk aged | airports: planes travelers | penguins: ice swim | candles: flame wax
farms: animals fields | pianos: keys melody | snow: white children | hospitals: doctors patients | whales: ocean deep
theaters: actors stage | chocolate: cocoa sweet | waterfalls: water rocks | bakeries: bread smell | foxes: tail clever
parks: grass benches | oranges: fruit juice | stars: sky telescope | horses: ride gallop | rice: grain meal
cameras: photos lens | butterflies: wings colorful | ships: sea captain | caves: dark bats | spring: flowers green
newspapers: news readers | zoos: animals visitors | glaciers: ice slow | bees: honey hive | guitars: strings songs
turtles: shell slow | shoes: feet leather | tigers: stripes jungle | poetry: words rhyme | swimming: water pool
"""
ENDINGS = ("I hope this helps!", "Thank you.", "That is all.", "Have a nice day!")


def topics() -> list[tuple[str, str, str]]:
    """(topic, likely word, second word), in file order."""
    entries = [entry.strip() for line in TOPICS.strip().splitlines() for entry in line.split("|")]
    return [(name, *words.split()) for name, words in (entry.split(": ") for entry in entries)]


def instruction(category: str, topic: tuple[str, str, str], variant: int) -> tuple[str, str, dict]:
    """Prompt text, IFEval instruction id and its kwargs. Even and odd variants differ in wording."""
    name, first, second = topic
    start = (f"Describe {name} in one sentence", f"Write one short sentence about {name}")[variant % 2]
    if category == "no_comma":
        return f"{start}. Do not use any commas.", "punctuation:no_comma", {}
    if category == "max_words":
        limit = (12, 14)[variant % 2]
        kwargs = {"relation": "less than", "num_words": limit}
        return f"{start}. Use less than {limit} words.", "length_constraints:number_words", kwargs
    if category == "min_words":
        limit = (20, 18)[variant % 2]
        start = (f"Describe {name} in one long sentence", f"Write one long sentence about {name}")[variant % 2]
        kwargs = {"relation": "at least", "num_words": limit}
        return f"{start}. Use at least {limit} words.", "length_constraints:number_words", kwargs
    if category == "keywords":
        return f"{start}. Use the words {first} and {second}.", "keywords:existence", {"keywords": [first, second]}
    if category == "forbidden_word":
        return f"{start}. Do not use the word {first}.", "keywords:forbidden_words", {"forbidden_words": [first]}
    ending = ENDINGS[variant % len(ENDINGS)]
    start = (f"First describe {name} in one sentence", f"First write one sentence about {name}")[variant % 2]
    return f"{start}. Then end with: {ending}", "startend:end_checker", {"end_phrase": ending}


CATEGORIES = ("no_comma", "max_words", "min_words", "keywords", "forbidden_word", "end_phrase")


def make_prompts() -> list[dict]:
    """Every prompt with its use: "sft", "pairs" or "heldout". Held-out topics occur in no training prompt."""
    shuffled = topics()
    random.Random(SEED).shuffle(shuffled)  # noqa: S311
    prompts = []
    for category in CATEGORIES:
        for number, topic in enumerate(shuffled):
            # Wording alternates within each use, so that no use has a wording of its own.
            uses = ("heldout",) if number < HELD_OUT_TOPICS else ("sft", "pairs")
            for offset, use in enumerate(uses):
                text, name, kwargs = instruction(category, topic, number + offset)
                prompts.append(
                    {
                        "prompt": text,
                        "category": category,
                        "topic": topic[0],
                        "use": use,
                        "order": number,
                        "instruction_id_list": [name],
                        "kwargs": [kwargs],
                    }
                )
    return prompts
