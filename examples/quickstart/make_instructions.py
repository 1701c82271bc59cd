"""make_instructions.py TRAIN EVAL [SEED]: writes the conversations that the quickstart tunes on: things the story teller has never been asked for.

Rhymes, riddles, advice and workshop signs, put together from the couplets below and the facts of world.py; equal arguments give equal files."""
import json
import random
import sys

from world import ANIMALS, JOINTS, NAMES, PLACES, THINGS, TRAITS, WOODS, a

COUPLETS = [
    ("{A_animal} with {a_tool} in hand", "made the finest {thing} in the land."),
    ("The {wood} was good, the {wood} was right,", "the {animal} worked by candle light."),
    ("A {thing}, a {thing}, oh what a day!", "The {animal} swept the chips away."),
    ("Tap, tap, tap and saw, saw, saw,", "the neatest {thing} you ever saw."),
    ("The {animal} hummed, the {tool} sang low,", "and out came {a_thing}, steady and slow."),
    ("It did not wobble, it did not break,", "that {thing} of {wood}, for goodness' sake."),
    ("Measure it once and measure it twice,", "then the {animal}'s {thing} will turn out nice."),
    ("The stove was warm, the tea was hot,", "a happy {animal} forgot the lot."),
    ("And when the moon was round and bright,", "the {thing} was done, and all was right."),
    ("Oh {animal}, dear {animal}, what will you do?", "I will build {a_thing} for me and for you."),
    ("Some like {badwood}, and some like stone,", "the {animal} likes {wood} and {wood} alone."),
    ("The rain came down on roof and tree,", "the {thing} stayed dry as dry can be."),
]
RHYME_ASKS = ["Sing me a rhyme about {a_animal} and {a_thing}.", "A rhyme about {a_animal} who builds {a_thing}, please!", "Can you rhyme about {a_animal} and {a_thing}?",
              "I would like a little rhyme with {a_animal} and {a_thing} in it."]
RIDDLE_ASKS = ["Tell me a riddle about {a_thing}.", "Do you know a riddle whose answer is {a_thing}?", "Ask me a riddle. The answer should be {a_thing}."]
RIDDLES = [
    "I was a tree, I was {wood}, and I felt the breeze.\nNow I am here {use}, if you please.\nWhat am I?\n\nAnswer: {a_thing}!",
    "The {tool} has made me, {wood} is my skin,\nI am here {use}: now let us begin!\nWhat am I?\n\nAnswer: {a_thing}!",
    "Not a tree any more, but {wood} through and through,\nmade {use}, by {a_animal} or two.\nWhat am I?\n\nAnswer: {a_thing}!",
]
ADVICE_ASKS = ["How do I make {a_thing}?", "What do I need for {a_thing}?", "I want to build {a_thing}. Any advice?"]
ADVICE = "1. Wood: {wood}. It is {wood_is}.\n2. Tool: {a_tool}, and a sharp one.\n3. Joint: {joint}. {joint_is_up}.\n4. Tea. Never build {a_thing} without tea."
SIGN_ASKS = ["Write a sign for {name} the {animal}, who makes {thing_many}.", "{name} the {animal} makes {thing_many} and needs a sign.",
             "What should the sign of {name} the {animal} say? {name} makes {thing_many}."]
SIGNS = [
    "* {name} the {animal} *\nfine {thing_many}, {place}\nclosed at tea time",
    "* {name} the {animal} *\n{thing_many} of {wood}, made by {trait} {paws}\nplease knock twice",
    "* {name} the {animal} *\n{thing_many} for everyone, {place}\nno nails, no hurry",
]
KINDS = ["rhyme"] * 4 + ["riddle", "riddle", "advice", "advice", "sign", "sign"]


def many(thing):
    return {"shelf": "shelves", "box": "boxes", "bench": "benches"}.get(thing, thing + "s")


def sample(rng, kind):
    animal, name, thing = rng.choice(sorted(ANIMALS)), rng.choice(NAMES), rng.choice(sorted(THINGS))
    joint, woods, tool, use = THINGS[thing]
    wood = rng.choice(woods)
    badwood = rng.choice(sorted(set(WOODS) - set(woods)))
    words = dict(animal=animal, a_animal=a(animal), A_animal=a(animal).capitalize(), name=name, thing=thing,
                 a_thing=a(thing), thing_many=many(thing), joint=joint, joint_is=JOINTS[joint], joint_is_up=JOINTS[joint].capitalize(), wood=wood,
                 wood_is=WOODS[wood], badwood=badwood, tool=tool, a_tool=a(tool), use=use, paws=ANIMALS[animal], place=rng.choice(PLACES),
                 trait=rng.choice(TRAITS))
    if kind == "rhyme":
        first, *rest = rng.sample(COUPLETS, 3)
        ask, answer = rng.choice(RHYME_ASKS), "\n".join(line for couplet in (first, *rest) for line in couplet)
    elif kind == "riddle":
        ask, answer = rng.choice(RIDDLE_ASKS), rng.choice(RIDDLES)
    elif kind == "advice":
        ask, answer = rng.choice(ADVICE_ASKS), ADVICE
    else:
        ask, answer = rng.choice(SIGN_ASKS), rng.choice(SIGNS)
    key = f"{kind}/{animal if kind in ('rhyme', 'sign') else ''}/{thing}"
    return key, {"messages": [{"role": "user", "content": ask.format(**words)}, {"role": "assistant", "content": answer.format(**words)}]}


def main():
    train_path, eval_path = sys.argv[1:3]
    rng = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 7)
    train, held_out, seen = [], [], {}
    while len(train) < 1200 or len(held_out) < 32:
        kind = rng.choice(KINDS)
        key, conversation = sample(rng, kind)
        # A rhyme or a sign is held out with its pair of animal and thing; riddles and advice know 24 things only, so those may share theirs.
        if kind in ("rhyme", "sign"):
            side = seen.setdefault(key, "eval" if rng.random() < 0.1 else "train")
        else:
            side = "eval" if rng.random() < 0.1 else "train"
        if side == "eval" and len(held_out) < 32:
            held_out.append(conversation)
        elif side == "train" and len(train) < 1200:
            train.append(conversation)
    for path, conversations in ((train_path, train), (eval_path, held_out)):
        with open(path, "w", encoding="utf-8") as out:
            out.writelines(json.dumps(conversation) + "\n" for conversation in conversations)


if __name__ == "__main__":
    main()
