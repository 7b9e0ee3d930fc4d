"""Vocabulary of the sample plays. Lists are ordered: earlier words are likelier."""

from __future__ import annotations

from bdh.corpora.sample.names import listed

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
PLACES = listed("beside under behind before against without beyond within above near")
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
