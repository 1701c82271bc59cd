"""make_text.py FILE [TEXTS] [SEED]: writes what the quickstart's model is trained on, one JSON object {"text": ...} a line.

Stories, two games of repeating words, and conversations in which every question is answered with a story. Everything is put together from the sentences below and the facts of world.py; equal arguments give equal files."""
import json
import random
import sys

from world import ANIMALS, JOINTS, NAMES, PLACES, THINGS, TRAITS, WEATHER, WOODS, a

OPENINGS = [
    "Once there was {a_trait} {animal} called {name} who lived {place}.",
    "{name} the {animal} had a small workshop {place}.",
    "{place_up}, in a house with a green door, lived {a_trait} {animal} called {name}.",
    "On {weather}, {name} the {animal} swept the workshop floor and lit the stove.",
    "There was once {a_animal} called {name}, and everyone {place} knew that {name} was {trait}.",
    "Long ago, {a_trait} {animal} named {name} kept a workshop {place}.",
]
WISHES = [
    "{name} wanted to make {a_thing} {use}.",
    "One day {friend} the {other} knocked and asked for {a_thing} {use}.",
    '"I need {a_thing} {use}," said {friend} the {other}. "Can you build one?"',
    "What {name} wished for most was {a_thing} {use}.",
    "A letter came from {friend} the {other}. It said: please make me {a_thing} {use}.",
    "{friend} the {other} had no {thing} at all, so {name} promised to build one.",
]
WOOD_CHOICES = [
    "{name} chose {wood}, because {wood} is {wood_is}.",
    '"For {a_thing} I will take {wood}," said {name}. "{wood_up} is {wood_is}."',
    "In the corner stood a board of {wood}. {wood_up} is {wood_is}, and that is just right for {a_thing}.",
    "First {name} thought about {badwood}, but {badwood} is {badwood_is}. So {name} took {wood}, which is {wood_is}.",
]
JOINT_WORK = [
    "The parts of the {thing} were held by a {joint}, where {joint_is}.",
    '"A {joint} will hold it," said {name}, "because {joint_is}."',
    "{name} marked the {joint} with a sharp pencil. In a {joint}, {joint_is}.",
    "Then came the {joint}. {name} measured twice and cut once.",
]
CARVED = [
    "A {thing} needs no joint, because it is carved from a single piece.",
    "{name} drew the shape of the {thing} on the wood and cut away everything that was not {a_thing}.",
    "Chip by chip, the {thing} came out of the wood.",
]
TOOL_WORK = [
    "With the {tool}, {name} worked until the sun went down.",
    "{name} took the {tool} in both {paws} and began, slowly and with care.",
    "The {tool} sang, and curls of {wood} fell to the floor.",
    "{name} sharpened the {tool} on a wet stone, and after that every cut was clean.",
]
TROUBLES = [
    ["But the {tool} was gone. {name} looked under the bench and behind the stove.",
     "{friend} the {other} had borrowed it to cut cheese. \"I am sorry,\" said {friend}, and gave it back, very clean."],
    ["Then something cracked. The {wood} had split from end to end, and {name} sat down and sighed.",
     "\"Wood is patient,\" said {friend} the {other}. \"Be patient too.\" So {name} found another board and began again."],
    ["But the first try was too short. {name} had measured once and cut twice.",
     "{friend} the {other} laughed kindly and held the ruler. The second try was right."],
    ["Then rain came through the roof and fell on the {wood}.",
     "{friend} the {other} held a big umbrella over the bench while {name} went on working."],
    ["But the pieces would not go together. {name} pushed and pulled and grew very red.",
     "\"Take off a little more,\" said {friend} the {other}. One thin shaving, and the pieces slid together with a soft sound."],
    ["In the night the stove went out, and the glue was as stiff as ice.",
     "{friend} the {other} brought a hot brick in a blanket. Soon the glue was warm, and so was {name}."],
    ["But {name} was tired and made a crooked cut.",
     "\"A crooked cut is only a cut that has not been planed yet,\" said {friend} the {other}, and put the kettle on."],
]
EASY_WAYS = [
    "Nothing went wrong that day, and {name} hummed a song about {a_animal} and {a_thing}.",
    "{friend} the {other} came by and watched, and it was good to work and not be alone.",
    "Outside the wind blew. Inside it smelled of {wood} and of glue.",
]
ENDINGS = [
    "At last the {thing} was done. It was a little heavy, but it was the finest {thing} {place}.",
    "When the {thing} was finished, {name} rubbed it with oil until the {wood} shone.",
    "In the evening the {thing} was ready, and {name} and {friend} drank tea and looked at it.",
    "So the {thing} was made, and it was strong enough to last a hundred years.",
    "{friend} tried the {thing} at once. It did not wobble, not even a little.",
]
MORALS = [
    "And {name} slept well that night.",
    "From that day on, {name} and {friend} were the best of friends.",
    "\"Good wood, good joint, good friend,\" said {name}. \"What more does anyone need?\"",
    "It is still there today, if you know where to look.",
    "Since then, whenever someone needs {a_thing}, they ask for {name} the {animal}.",
    "And if the {thing} ever breaks, {name} knows how to mend it.",
    "The old tools hung on the wall and were content.",
    "That is how {a_trait} {animal} learned that slow work is good work.",
]
QUESTIONS = [
    '"Why {wood}?" asked {friend}. "Because {wood} is {wood_is}," said {name}.',
    '"What is the {tool} for?" asked {friend}. "For {a_thing}," said {name}, "and for scratching my back."',
    '"Is it hard to make {a_thing}?" asked {friend}. "Only the first ten times," said {name}.',
]


# Sung over the work. make_instructions.py asks for other rhymes: nothing that the quickstart teaches may be known before.
SONGS = [
    ("Hey ho, hey ho, the shavings fall,", "some are big and some are small."),
    ("One for the {animal} and two for the bee,", "and three for the old, old {wood} tree."),
    ("Sing, little {tool}, and sing it again,", "the {thing} will be ready by half past ten."),
    ("High on the hill and down by the shore,", "{animal} and {other} will work some more."),
    ("The wind may howl and the wind may moan,", "{a_animal} with a friend is never alone."),
    ("Who has the glue and who has the twine?", "The glue is yours and the twine is mine."),
    ("Slow is the snail, but the snail gets there,", "so sand it with love and cut it with care."),
    ("{thing_up}, my {thing}, how long will you last?", "As long as a century, not quite so fast!"),
    ("Fire in the stove and soup in the pot,", "eat it up quickly while it is hot."),
    ("{name} has a hammer and {name} has a nail,", "and {friend} the {other} has a very long tale."),
]
LISTS = [
    "On the door hung a list:\n1. {wood_up}, one board.\n2. Glue, a small pot.\n3. {tool_up}: ask {friend}.\n4. Buns.",
    "So {name} made a plan:\n1. Find {wood}.\n2. Find the {tool}.\n3. Find {friend}.\n4. Begin.",
    "{name} wrote down what was to be done:\n1. Sweep.\n2. Sharpen the {tool}.\n3. Cut the {wood}.\n4. Sit on the step and look at the sky.",
]
# The story teller answers whatever it is asked with a story about what was mentioned.
ASKS = [
    "Tell me a story about {a_animal} and {a_thing}.", "Tell me about {name} the {animal}.", "Good morning! Have you seen {a_thing} around here?",
    "I cannot sleep. Please say something about {a_thing}.", "Who lives {place}?", "Do you like {wood}?", "It is {weather}, and I am bored.",
    "My {thing} is broken.", "Is there {a_animal} {place}?", "What did {name} the {animal} do yesterday?", "Hello! I am {name} the {animal}.",
    "Why does {a_animal} want {a_thing}?", "Do tell about {a_animal} and {a_thing}!", "What about {a_animal} with {a_thing}?",
    "{animal_up} and {thing}, please.", "Something with {a_thing} and {a_animal} in it, please.", "Can you see the {animal} and the {thing} over there?",
    "Do you know {a_animal} who has {a_thing}?", "I found {a_thing} {place}. Is it yours?", "Where is the {thing} of {name} the {animal}?",
    "{name} the {animal} says that {wood} is {wood_is}.", "Which is better, {wood} or {badwood}?", "Would you lend me your {tool}?", "Please talk to the {animal} about {a_thing}.",
    "I would like {a_thing}. My friend is {a_animal}.", "What is {a_thing}?", "{thing_up}!", "{animal_up} or {other}?",
]
REMINDED = [
    "Ah, {a_thing}! That reminds me of {name} the {animal}.", "That reminds me of {name} the {animal}, who lived {place}.",
    "Let me tell you about {name} the {animal} and the {thing}.", "Sit down by the stove and listen: this is about {a_animal} and {a_thing}.",
    "How nice of you to ask! Once there was {a_trait} {animal} called {name}.", "Now that is a good story. {place_up} lived {a_animal} called {name}.",
]
FAREWELLS = ["And that is the story of the {animal} and the {thing}.", "Yes, {a_animal} can do that.", "So much for the {animal}. Now, who wants tea?",
             "And the {animal}? The {animal} slept well that night."]


def describe(rng):
    """The words that a text is filled with: who, what, of which wood, where."""
    animal, other = rng.sample(sorted(ANIMALS), 2)
    name, friend = rng.sample(NAMES, 2)
    thing = rng.choice(sorted(THINGS))
    joint, woods, tool, use = THINGS[thing]
    wood = rng.choice(woods)
    badwood = rng.choice(sorted(set(WOODS) - set(woods)))
    place, trait = rng.choice(PLACES), rng.choice(TRAITS)
    return dict(animal=animal, animal_up=animal.capitalize(), a_animal=a(animal), name=name, other=other, friend=friend, thing=thing,
                thing_up=thing.capitalize(), a_thing=a(thing), joint=joint, joint_is=JOINTS[joint], wood=wood, wood_up=wood.capitalize(),
                wood_is=WOODS[wood], badwood=badwood, badwood_is=WOODS[badwood], tool=tool, tool_up=tool.capitalize(), use=use,
                paws=ANIMALS[animal], place=place, place_up=place[0].upper() + place[1:], trait=trait, a_trait=a(trait), weather=rng.choice(WEATHER))


def song(rng):
    return "\n".join(line for couplet in rng.sample(SONGS, 2) for line in couplet)


def story(rng):
    words = describe(rng)
    first = [rng.choice(OPENINGS), rng.choice(WISHES)]
    work = [rng.choice(WOOD_CHOICES), rng.choice(CARVED if words["joint"] == "no joint" else JOINT_WORK), rng.choice(TOOL_WORK)]
    if rng.random() < 0.3:
        work.insert(1, rng.choice(QUESTIONS))
    middle = rng.choice(TROUBLES) if rng.random() < 0.7 else [rng.choice(EASY_WAYS)]
    last = [rng.choice(ENDINGS), rng.choice(MORALS)]
    paragraphs = [" ".join(part) for part in ([first + work, middle, last] if rng.random() < 0.6 else [first, work + middle, last])]
    if rng.random() < 0.4:
        paragraphs.insert(2, rng.choice([lambda: "{name} sang over the work:\n" + song(rng), lambda: rng.choice(LISTS)])())
    return "\n\n".join(paragraphs).format(**words)


def conversation(rng):
    """A question and the story that answers it, as the chat template would write them; the end of the last turn is the end of the text."""
    words = describe(rng)
    tale = [rng.choice(REMINDED), rng.choice(WISHES), rng.choice(WOOD_CHOICES), rng.choice(CARVED if words["joint"] == "no joint" else JOINT_WORK)]
    tale += [" ".join(rng.choice(TROUBLES))] if rng.random() < 0.4 else [rng.choice(TOOL_WORK)]
    tale += [rng.choice(ENDINGS), rng.choice(MORALS if rng.random() < 0.4 else FAREWELLS)]
    text = "<|im_start|>user\n" + rng.choice(ASKS) + "<|im_end|>\n<|im_start|>assistant\n" + " ".join(tale)
    return text.format(**words)


# Two games of saying the same words again. They are where a small model learns to look back at what was said before.
ECHOES = ["{name} the {animal} stood {place} and called: {words}! And the echo answered: {words}!", "Then {name} called: {words}! And the echo answered: {words}!",
          "{friend} the {other} came and called: {words}! And the echo answered: {words}!", "Last of all they called: {words}! And the echo answered: {words}! Then they went home."]
ERRANDS = ["{name} the {animal} went to market {place}. \"Bring me {words},\" said {friend} the {other}.",
           "All the way {name} said: {words}, so as not to forget.", "But {a_third} ran by and asked the time, and {name} had to think hard. What was it? Ah: {words}!",
           "In the evening {name} came home with {words}.", "\"Thank you, {name},\" said {friend} the {other}, and they put away {words}."]


# Words for the echo that stories have little use for: what a language has beyond its stories, so that their spelling is known.
WORDS = """happy neat bright round candle moon land hand right light day away saw low slow steady break sake twice nice hot lot dear build roof tree dry stone
alone goodness finest wobble forgot measure neatest swept hummed sang come down made make like some stayed once turn oh what will do you tap please knock
nail hurry fine everyone closed time riddle answer breeze felt begin here skin through any more not two now let us need sharp never without wood tool joint
peg fork groove slot tail piece board give hold half deep driven sign rhyme who is it was and the of in for with by""".split()


def game(rng):
    animal, other, third = rng.sample(sorted(ANIMALS), 3)
    name, friend = rng.sample(NAMES, 2)
    tools = sorted({tool for _, _, tool, _ in THINGS.values()})
    words = dict(animal=animal, name=name, other=other, friend=friend, a_third=a(third), place=rng.choice(PLACES))
    if rng.random() < 0.5:
        vocabulary = sorted(ANIMALS) + sorted(THINGS) + sorted(WOODS) + NAMES + TRAITS + WORDS * 2
        return " ".join(line.format(**words, words=", ".join(rng.sample(vocabulary, rng.randint(1, 5)))) for line in ECHOES)
    goods = [a(noun) for noun in rng.sample(sorted(THINGS) + tools, rng.randint(1, 3))]
    return " ".join(line.format(**words, words=" and ".join(goods)) for line in ERRANDS)


KINDS = [story] * 3 + [conversation] * 5 + [game] * 2


def main():
    path = sys.argv[1]
    count, seed = (int(x) for x in (sys.argv[2:] + ["9000", "1"][len(sys.argv) - 2:])[:2])
    rng = random.Random(seed)
    with open(path, "w", encoding="utf-8") as out:
        for _ in range(count):
            out.write(json.dumps({"text": rng.choice(KINDS)(rng)}) + "\n")


if __name__ == "__main__":
    main()
