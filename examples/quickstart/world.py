"""The little world that the quickstart's model knows: who lives there, what they build, and which wood, tool and joint each thing wants."""

ANIMALS = {
    "otter": "paws", "badger": "paws", "hedgehog": "paws", "fox": "paws", "mole": "paws", "hare": "paws", "squirrel": "paws",
    "beaver": "paws", "mouse": "paws", "bear": "paws", "weasel": "paws", "cat": "paws", "heron": "wings", "owl": "wings",
    "crow": "wings", "goose": "wings", "robin": "wings", "wren": "wings", "toad": "hands", "frog": "hands", "newt": "hands",
    "tortoise": "feet", "goat": "hooves", "donkey": "hooves",
}
NAMES = ("Alder Bramble Clover Dapple Ember Fennel Gorse Hazel Ivo Juniper Kestrel Linnet Maple Nettle Olive Pip Quill Rowan Sorrel Tansy "
         "Umber Vesper Willow Yarrow Bodkin Dibble Fidget Mabel Otto Poppy Rusk Tilda").split()

# thing: (joint that holds it together, woods that suit it, tool that does the fine work, what it is for)
THINGS = {
    "stool": ("round tenon", ("ash", "oak", "elm"), "spokeshave", "to rest tired legs"),
    "drawer": ("dovetail", ("pine", "oak", "cherry"), "dovetail saw", "to keep the buttons in"),
    "door": ("mortise and tenon", ("oak", "larch", "pine"), "mortise chisel", "to keep the wind outside"),
    "table": ("mortise and tenon", ("oak", "cherry", "walnut"), "jack plane", "to share the soup on"),
    "chair": ("round tenon", ("ash", "elm", "beech"), "drawknife", "to read stories in"),
    "boat": ("lap joint", ("larch", "oak", "elm"), "adze", "to cross the wide river"),
    "box": ("finger joint", ("maple", "cherry", "pine"), "tenon saw", "to hide the letters in"),
    "chest": ("dovetail", ("oak", "walnut", "pine"), "dovetail saw", "to keep the blankets dry"),
    "bench": ("mortise and tenon", ("oak", "beech", "larch"), "jack plane", "to sit on together"),
    "cradle": ("finger joint", ("lime", "cherry", "beech"), "spokeshave", "to rock the baby to sleep"),
    "shelf": ("housing joint", ("pine", "walnut", "maple"), "router plane", "to hold the jars of jam"),
    "ladder": ("round tenon", ("ash", "pine", "larch"), "auger", "to reach the ripe apples"),
    "bridge": ("lap joint", ("oak", "larch", "elm"), "adze", "to walk over the stream"),
    "frame": ("bridle joint", ("walnut", "cherry", "lime"), "tenon saw", "to hang the painting in"),
    "gate": ("bridle joint", ("oak", "larch", "ash"), "mortise chisel", "to keep the sheep in the field"),
    "kite": ("lap joint", ("pine", "lime", "ash"), "pocket knife", "to fly on windy days"),
    "spoon": ("no joint", ("lime", "cherry", "birch"), "hook knife", "to stir the porridge"),
    "bowl": ("no joint", ("birch", "elm", "maple"), "gouge", "to hold the ripe plums"),
    "whistle": ("no joint", ("willow", "elder", "hazel"), "pocket knife", "to call friends from far away"),
    "birdhouse": ("housing joint", ("larch", "pine", "elm"), "auger", "to give the wrens a home"),
    "clock": ("bridle joint", ("walnut", "cherry", "maple"), "file", "to tell when it is time for tea"),
    "sled": ("lap joint", ("ash", "birch", "hazel"), "drawknife", "to slide down the snowy hill"),
    "wheel": ("round tenon", ("elm", "oak", "ash"), "spokeshave", "to make the old cart roll again"),
    "fiddle": ("housing joint", ("maple", "willow", "walnut"), "scraper", "to play at the harvest dance"),
}
WOODS = {
    "oak": "strong and heavy", "ash": "springy and tough", "elm": "hard to split", "pine": "soft and light", "cherry": "warm and red",
    "walnut": "dark and smooth", "larch": "not afraid of rain", "beech": "pale and even", "maple": "white and hard", "lime": "easy to carve",
    "birch": "pale and sweet", "willow": "light and bendy", "elder": "hollow inside", "hazel": "thin and straight",
}
JOINTS = {
    "dovetail": "its tails spread like a fan and cannot be pulled out",
    "mortise and tenon": "a tongue of wood sits deep in a slot",
    "round tenon": "a round peg is driven into a round hole",
    "lap joint": "two pieces each give up half and lie in one another",
    "finger joint": "the ends hold each other like folded hands",
    "housing joint": "one board stands in a groove of another",
    "bridle joint": "a fork of wood holds a tongue from both sides",
    "no joint": "it is carved from a single piece",
}
PLACES = ("by the river", "under the hill", "at the edge of the wood", "behind the mill", "near the old bridge", "beside the sea", "on the high moor",
          "in the apple orchard", "at the end of the lane", "above the bakery")
TRAITS = "patient careful cheerful shy curious stubborn quiet brave sleepy clever gentle hasty proud tidy".split()
WEATHER = ("a rainy morning", "a bright spring day", "a windy evening", "the first day of snow", "a warm summer night", "a foggy autumn morning",
           "a cold winter day", "market day")


def a(noun):
    """The noun with its article."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun
