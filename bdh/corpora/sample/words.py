"""Vocabulary of the sample corpora: names of both, then of the earnings calls, then of the plays.

Every person, place and company is invented. Lists are ordered: earlier words are likelier.
"""

from __future__ import annotations

from dataclasses import dataclass

from bdh.corpora.sample.choices import Choices

FIRST = ("Bel", "Cor", "Dar", "Fen", "Gal", "Hes", "Jor", "Kel", "Lom", "Mar", "Nev", "Os", "Per", "Quil", "Ros", "Sab")
SECOND = (
    "adin",
    "bric",
    "cova",
    "drel",
    "emon",
    "fira",
    "gwen",
    "hald",
    "iska",
    "jorn",
    "kesh",
    "lune",
    "mira",
    "nott",
)
PLACES = ("Varnholt", "Ellismere", "Tollgate", "Quenby", "Drossford", "Highmarl", "Pellway", "Sunder Bay")
SYLLABLES = ("ba", "de", "fi", "go", "hu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "wu", "za")
REPETITIONS = 5  # how often a word without a meaning is said at once
PEOPLE = tuple(first + second for first in FIRST for second in SECOND)
SURNAMES = tuple(f"{second.capitalize()}{end}" for second in SECOND for end in ("son", "er", "ley", "wick"))


def listed(words: str) -> tuple[str, ...]:
    """Words of a text, in order."""
    return tuple(words.split())


def nonsense(choices: Choices) -> str:
    """A word of four random syllables, one of 65,536: nothing but its own repetition makes it likely."""
    return "".join(choices.pick(SYLLABLES) for _ in range(4))


@dataclass(frozen=True)
class Company:
    """An invented company; a digit in the symbol keeps it apart from every listed one."""

    symbol: str
    name: str
    sector: str
    currency: str


COMPANIES = (
    Company("QV1", "Quorvane Pipeworks", "Energy", "dollars"),
    Company("BX2", "Brexolith Drilling", "Energy", "euros"),
    Company("UM3", "Umberwick Power", "Energy", "dollars"),
    Company("ZL4", "Zelphane Clinics", "Health Care", "francs"),
    Company("OT5", "Ostravelle Remedies", "Health Care", "dollars"),
    Company("MY6", "Mynthia Devices", "Health Care", "euros"),
    Company("TK7", "Tokkarel Chips", "Technology", "dollars"),
    Company("PD8", "Pondrasoft Networks", "Technology", "pounds"),
    Company("IV9", "Ivelldata Systems", "Technology", "dollars"),
    Company("GN1", "Grenopel Grocers", "Consumer Goods", "pounds"),
    Company("LW2", "Lowmarrow Toys", "Consumer Goods", "dollars"),
    Company("HK3", "Hesskettle Kitchens", "Consumer Goods", "francs"),
)
SECTORS: dict[str, tuple[str, ...]] = {
    "Energy": listed("pipelines turbines refineries wells tankers grids dynamos collieries boilers dams"),
    "Health Care": listed("vaccines implants trials hospitals dosages scanners bandages therapies tonics wards"),
    "Technology": listed("chips servers licences routers databases sensors wafers upgrades antennas modems"),
    "Consumer Goods": listed("kettles puzzles cereals carpets umbrellas candles blenders sweaters pans soaps"),
}
# What a year brings: year modulo the number of themes, so that test years meet themes of the training years.
THEMES = ("the dry summer", "the port strike", "the new tariff", "the rail works", "the price cap")
MARKETS = (
    "the north",
    "the islands",
    "the large cities",
    "the coastal towns",
    "the border country",
    "the mountain region",
    "the river valleys",
    "our home market",
)
DRIVERS = (
    "stronger orders",
    "better prices",
    "careful planning",
    "a larger sales team",
    "shorter queues",
    "two new depots",
    "loyal customers",
    "a mild winter",
    "faster lorries",
    "good weather",
)
DRAGS = (
    "late deliveries",
    "higher wages",
    "weak demand",
    "costly repairs",
    "a slow start",
    "spoiled stock",
    "a flooded plant",
    "old machines",
    "rising rents",
    "a lost contract",
)
MEASURES = ("margin", "cash flow", "order book", "payroll", "inventory", "tax bill", "rent", "interest")
ACTIONS = listed("opened closed renewed repaired enlarged leased insured painted sold moved")
SITES = ("warehouse", "workshop", "showroom", "laboratory", "depot", "bakery", "quay", "garage")
MOODS = listed("pleased cautious confident patient surprised ready proud worried")
PERIODS = ("week", "month", "quarter", "season", "year")
FIRMS = ("Ablethwick Partners", "Cordwimple Research", "Fennimole and Sons", "Oldmarrow Capital", "Tidewhistle Notes")
QUARTERS = ("first", "second", "third", "fourth")

TOPICS: dict[str, tuple[str, ...]] = {
    "storm": listed("wave cloud mast gale thunderbolt harbour flood anchor tide lantern rudder gull cliff oar"),
    "harvest": listed("barn sickle orchard wagon millstone sheaf granary furrow beehive scarecrow mule plum"),
    "siege": listed("rampart arrow trench banner catapult gatehouse shield trumpet ladder moat tower sword"),
    "wedding": listed("garland veil fiddle dowry feast ribbon chapel goblet bouquet cradle dance mirror"),
    "lawsuit": listed("judge ledger witness verdict clerk contract debt seal petition bailiff oath wig"),
    "hunt": listed("stag hound forest falcon snare thicket boar saddle hollow bugle track fox"),
}
ADJECTIVES = listed(
    "old dark proud silent broken bright heavy strange gentle bitter cold hungry golden narrow patient false young "
    "crooked holy thin loud faithful empty pale wild rusty secret humble swift drowsy"
)
PAST = listed(
    "saw feared followed guarded mocked carried forgot praised cursed buried painted stole mended measured weighed "
    "chased blessed sold hid found"
)
FUTURE = listed("find burn hide mend follow curse sell bless count bury steal weigh guard chase paint")
STATES = listed(
    "lost near ready cursed hidden welcome ruined asleep awake forgiven poisoned frozen doomed wet safe alone"
)
PREPOSITIONS = listed("beside under behind before against without beyond within above near")
TIMES = listed("dawn noon dusk midnight supper daybreak cockcrow sunset")
OWN = listed("heart hand tongue sleep shadow courage patience grief sister kitchen pillow purse")
MANNERS = ("alas", "they say", "I swear it", "as all men know", "so I dreamt", "God help us", "or I am blind")
TOKENS = ("silver ring", "sealed letter", "iron key", "torn map", "glass eye", "red glove", "bone comb", "brass bell")
SETTINGS = ("A hall", "A street", "The market", "A cellar", "The north wall", "A garden", "A bridge", "The kitchen")
COUNTED = ("days", "nights", "winters", "hours")

# Class of character -> titles with their pronouns, words that open a speech, words of address.
CLASSES: dict[str, tuple[tuple[tuple[str, str], ...], tuple[str, ...], tuple[str, ...]]] = {
    "noble": (
        (("duke", "he"), ("duchess", "she"), ("baron", "he"), ("countess", "she")),
        ("By my crown,", "Hear my command:", "As I was born to rule,", "Upon my honour,"),
        ("my vassal", "good subject", "my liege"),
    ),
    "servant": (
        (("cook", "she"), ("groom", "he"), ("maid", "she"), ("porter", "he")),
        ("If it please you,", "Forgive me,", "I only sweep here, but", "Begging your pardon,"),
        ("your grace", "kind master", "gentle mistress"),
    ),
    "sailor": (
        (("pilot", "he"), ("boatswain", "he"), ("ferrywoman", "she"), ("netmaker", "she")),
        ("Ahoy,", "Salt and tar,", "By wind and rope,", "Blow me down,"),
        ("shipmate", "old hand", "landlubber"),
    ),
    "scholar": (
        (("physician", "he"), ("astrologer", "she"), ("tutor", "he"), ("librarian", "she")),
        ("It is written that", "Consider this:", "My books agree that", "By sound reasoning,"),
        ("dear pupil", "learned friend", "doubter"),
    ),
}


def plural(noun: str) -> str:
    """Plural of one of the nouns above."""
    if noun.endswith(("sh", "ch", "ss", "x")):
        return noun + "es"
    if noun == "sheaf":
        return "sheaves"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeiou" else noun + "s"
