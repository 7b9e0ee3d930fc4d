"""Sample plays: invented, with structure that only context can predict.

- Names, titles and pronouns of the persons are drawn per play, listed at its head and used to its end.
- A speaker's class settles how speeches open, the play's topic which nouns it prefers.
- A verb agrees with its subject across a clause whose own noun may have the other number.
- One thing passes from hand to hand in stage directions; who has it later is a matter of record.
- Songs repeat a word without meaning: dear the first time, free from then on.
Every choice shows in the text, so minus its log-probability is the information in the play.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bdh.corpora.planted import Planted
from bdh.corpora.sample import words
from bdh.corpora.sample.choices import Choices, Text
from bdh.corpora.sample.words import PEOPLE, PLACES, nonsense

ACTS = 3
SPEECHES = (11, 14)
NOUNS = tuple((topic, noun) for topic, nouns in words.TOPICS.items() for noun in nouns)
POSSESSIVE = {"he": "his", "she": "her"}
SENTENCES = {
    "statement": 5.0,
    "plan": 3.0,
    "simile": 2.0,
    "condition": 2.0,
    "pronoun": 2.0,
    "question": 1.5,
    "holder": 1.0,
    "count": 0.7,
    "song": 0.4,
}


@dataclass(frozen=True)
class Person:
    """One of the persons of a play."""

    name: str
    kind: str
    title: str
    pronoun: str


@dataclass
class Play:
    """What a play remembers while it is written."""

    choices: Choices
    text: Text
    topic: str
    persons: list[Person]
    token: str
    count: int
    counted: str
    holder: Person
    weights: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Weigh the nouns: those of the topic come eight times as often."""
        ranks = [nouns.index(noun) for topic, noun in NOUNS for nouns in [words.TOPICS[topic]]]
        favoured = [8.0 if topic == self.topic else 1.0 for topic, _ in NOUNS]
        self.weights = [favour / (rank + 2) for favour, rank in zip(favoured, ranks, strict=True)]


def write_play(seed: str) -> tuple[str, Planted]:
    """The play that belongs to `seed`, about 7 kB, and what is planted in it."""
    play = _open(Choices(seed), Text())
    for act in range(1, ACTS + 1):
        _write_act(play, act)
    play.text.add("The end.")
    return str(play.text), Planted(play.choices.nats, play.text.spans)


def _open(choices: Choices, text: Text) -> Play:
    topic, place = choices.pick(tuple(words.TOPICS)), choices.pick(PLACES)
    text.add(f"THE {topic.upper()} AT {place.upper()}\n\nPersons of the play:\n")
    persons = []
    for name in choices.several(PEOPLE, choices.integer(4, 6)):
        kind = choices.pick(tuple(words.CLASSES))
        title, pronoun = choices.pick(words.CLASSES[kind][0])
        persons.append(Person(name, kind, title, pronoun))
        text.add(f"{name}, {'an' if title[0] in 'aeiou' else 'a'} {title}, and all that {pronoun} knows\n")
    token, count, counted = choices.pick(words.TOKENS), choices.integer(2, 99), choices.pick(words.COUNTED)
    holder = choices.pick(persons)
    text.add(f"\nIt is {count} {counted} since the quarrel. {holder.name} has the {token}.\n")
    return Play(choices, text, topic, persons, token, count, counted, holder)


def _write_act(play: Play, act: int) -> None:
    choices, text = play.choices, play.text
    text.add(f"\nAct {act}. {choices.pick(words.SETTINGS)}.\n\n")
    present = choices.several(play.persons, choices.integer(2, 4))
    _direct(play, f"Enter {_listed([person.name for person in present])}")
    speaker, other = present[0], present[1]
    for _ in range(choices.integer(*SPEECHES)):
        _write_speech(play, speaker, other)
        if play.holder in present and choices.chance(0.12):
            receiver = choices.pick([person for person in present if person is not play.holder])
            _direct(play, f"{play.holder.name} gives the {play.token} to {receiver.name}")
            play.holder = receiver
        rest = [person for person in present if person is not speaker]
        following = choices.pick(rest, [3.0 if person is other else 1.0 for person in rest])
        speaker, other = following, speaker
    _direct(play, "Exeunt")


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _direct(play: Play, direction: str) -> None:
    play.text.add(f"[{direction}.]", "stage_direction")
    play.text.add("\n\n")


def _write_speech(play: Play, speaker: Person, other: Person) -> None:
    choices, text = play.choices, play.text
    _, openers, addresses = words.CLASSES[speaker.kind]
    text.add(speaker.name.upper(), "speaker_name")
    text.add(".\n")
    with text.marked(f"class_{speaker.kind}"):
        if choices.chance(0.75):
            text.add(choices.ranked(openers) + " ")
        if choices.chance(0.3):
            text.add(f"{choices.ranked(addresses)}, ")
        for number in range(choices.pick((1, 2, 3), (2.0, 3.0, 1.0))):
            text.add(" " if number else "")
            _write_sentence(play, other)
    text.add("\n\n")


def _write_sentence(play: Play, other: Person) -> None:
    choices, text = play.choices, play.text
    match choices.pick(tuple(SENTENCES), tuple(SENTENCES.values())):
        case "statement":
            _state(play)
        case "plan":
            text.add(f"at {choices.ranked(words.TIMES, 0.5)} {choices.pick(play.persons).name} will ")
            text.add(choices.ranked(words.FUTURE, 0.5))
            _add_thing(play, " the ")
        case "simile":
            text.add(f"as {_adjective(play)} as")
            _add_thing(play, " the ")
            text.add(f", so {_adjective(play)} is my {choices.ranked(words.OWN, 0.5)}")
        case "condition":
            several = choices.chance(0.5)
            text.add("if")
            _add_noun(play, several, " the ")
            text.add(" ")
            text.add("are" if several else "is", "agreement")
            text.add(f" {choices.ranked(words.STATES, 0.5)}, {choices.ranked(words.FUTURE, 0.5)}")
            _add_thing(play, " the ")
        case "pronoun":
            _lose(play)
        case "question":
            text.add(f"what says {other.name} the {other.title} of")
            _add_thing(play, " the ")
        case "holder":
            text.add("now ")
            text.add(play.holder.name, "recalled")
            text.add(f" has the {play.token}")
        case "count":
            text.add("it is ")
            text.add(str(play.count), "number")
            text.add(f" {play.counted} since the quarrel")
        case "song":
            _sing(play)
    if choices.chance(0.15):
        text.add(f", {choices.ranked(words.MANNERS)}")
    text.add(choices.pick((".", "!"), (6.0, 1.0)))


def _state(play: Play) -> None:
    """A verb that agrees with a subject two nouns back."""
    choices, text = play.choices, play.text
    several = choices.chance(0.5)
    _add_noun(play, several, f"the {_adjective(play)} ")
    text.add(f" that {choices.ranked(words.PAST, 0.5)}")
    _add_thing(play, " the ")
    text.add(" ")
    text.add("are" if several else "is", "agreement")
    text.add(f" {choices.ranked(words.STATES, 0.5)}")


def _lose(play: Play) -> None:
    """Two pronouns that the head of the play settles."""
    choices, text = play.choices, play.text
    person = choices.pick(play.persons)
    text.add(f"once {person.name} {choices.ranked(words.PAST, 0.5)} ")
    text.add(POSSESSIVE[person.pronoun], "pronoun")
    _add_noun(play, False, " own ")
    text.add(", and ")
    text.add(person.pronoun, "pronoun")
    text.add(" told no one")


def _sing(play: Play) -> None:
    """A word without meaning, again and again."""
    word = nonsense(play.choices)
    play.text.add("sing with me: ")
    play.text.add(word, "repeated_first")
    for _ in range(words.REPETITIONS - 1):
        play.text.add(" ")
        play.text.add(word, "repeated_again")


def _adjective(play: Play) -> str:
    return play.choices.ranked(words.ADJECTIVES, 0.5)


def _add_thing(play: Play, before: str) -> None:
    """A noun, perhaps with an adjective, perhaps at a place."""
    choices = play.choices
    adjective = f"{_adjective(play)} " if choices.chance(0.4) else ""
    _add_noun(play, choices.chance(0.5), before + adjective)
    if choices.chance(0.3):
        play.text.add(f" {choices.ranked(words.PLACES, 0.5)}")
        _add_noun(play, choices.chance(0.5), " the ")


def _add_noun(play: Play, several: bool, before: str) -> None:
    topic, noun = play.choices.pick(NOUNS, play.weights)
    play.text.add(before)
    play.text.add(words.plural(noun) if several else noun, f"topic_{topic}")
