"""Vocabulary of the sample plays. Lists are ordered: earlier words are likelier."""

from __future__ import annotations

TOPICS: dict[str, tuple[str, ...]] = {
    "storm": tuple("wave cloud mast gale thunderbolt harbour flood anchor tide lantern rudder gull cliff oar".split()),
    "harvest": tuple("barn sickle orchard wagon millstone sheaf granary furrow beehive scarecrow mule plum".split()),
    "siege": tuple("rampart arrow trench banner catapult gatehouse shield trumpet ladder moat tower sword".split()),
    "wedding": tuple("garland veil fiddle dowry feast ribbon chapel goblet bouquet cradle dance mirror".split()),
    "lawsuit": tuple("judge ledger witness verdict clerk contract debt seal petition bailiff oath wig".split()),
    "hunt": tuple("stag hound forest falcon snare thicket boar saddle hollow bugle track fox".split()),
}
ADJECTIVES = tuple(
    "old dark proud silent broken bright heavy strange gentle bitter cold hungry golden narrow patient false young "
    "crooked holy thin loud faithful empty pale wild rusty secret humble swift drowsy".split()
)
PAST = tuple(
    "saw feared followed guarded mocked carried forgot praised cursed buried painted stole mended measured weighed "
    "chased blessed sold hid found".split()
)
FUTURE = tuple("find burn hide mend follow curse sell bless count bury steal weigh guard chase paint".split())
STATES = tuple(
    "lost near ready cursed hidden welcome ruined asleep awake forgiven poisoned frozen doomed wet safe alone".split()
)
PLACES = tuple("beside under behind before against without beyond within above near".split())
TIMES = tuple("dawn noon dusk midnight supper daybreak cockcrow sunset".split())
OWN = tuple("heart hand tongue sleep shadow courage patience grief sister kitchen pillow purse".split())
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
