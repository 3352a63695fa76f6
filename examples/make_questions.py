"""Make the questions of `examples/`: a day of them, held-out ones, and probes for deployments.

    python -m examples.make_questions [--seed 7] [--folder examples]

Writes day.jsonl (asked by day), heldout.jsonl (only measured on), probes.jsonl (asked while a deployment is watched),
general.jsonl (what the base model answers right already) and replay.jsonl (what it is trained to go on answering).
No two questions, of one file or of two, ask the same thing of the same numbers. The numbers are those of daily life,
small or round. Answers are computed here from the numbers drawn, never from the text.
"""

import argparse
import random
import re
from collections.abc import Callable
from datetime import date, timedelta
from fractions import Fraction
from pathlib import Path

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
NAMES = ["Anna", "Ben", "Carla", "David", "Elena", "Farid", "Grace", "Hugo"]
GOODS = ["apples", "notebooks", "tickets", "pens", "sandwiches", "bottles of juice", "stamps", "candles", "mugs"]
THINGS = ["shirt", "lamp", "backpack", "jacket", "chair", "watch", "bicycle", "keyboard"]
SIZES = {"day": 40, "heldout": 32, "probes": 8}  # questions a checkable kind

Draw = Callable[[random.Random], tuple[str, str]]


def number(value: Fraction | int) -> str:
    """Write a value that has a finite decimal form, without trailing zeros."""
    value = Fraction(value)
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6f}".rstrip("0").rstrip(".")


def money(value: Fraction | int) -> str:
    """Write dollars as $30 or $7.50."""
    value = Fraction(value)
    return f"${value.numerator}" if value.denominator == 1 else f"${float(value):.2f}"


def arithmetic(r: random.Random) -> tuple[str, str]:
    a, b, c, d = r.randint(11, 60), r.randint(11, 39), r.randint(2, 9), r.randint(2, 12)
    tens, less = 10 * r.randint(2, 9), r.choice([c, 10 * r.randint(1, a // 10)])
    return r.choice(
        [
            (f"What is {a} + {b}?", number(a + b)),
            (f"What is {a} - {less}?", number(a - less)),
            (f"What is {d} times {c}?", number(d * c)),
            (f"Calculate {tens} * {c}.", number(tens * c)),
            (f"What is {d * c} divided by {c}?", number(d)),
            (f"What is {a} + {d} * {c}?", number(a + d * c)),
            (f"How much is {a} plus {tens} minus {c}?", number(a + tens - c)),
        ]
    )


def percentage(r: random.Random) -> tuple[str, str]:
    p, base = r.choice([5, 10, 20, 25, 30, 40, 50, 60, 75]), r.choice([*range(20, 201, 20), 300, 400, 500])
    part = Fraction(p * base, 100)
    return r.choice(
        [
            (f"What is {p}% of {base}?", number(part)),
            (f"Find {p} percent of {base}.", number(part)),
            (f"How much is {p}% of {base}?", number(part)),
            (f"What is {base} increased by {p}%?", number(base + part)),
            (f"What is {base} decreased by {p}%?", number(base - part)),
        ]
    )


def units(r: random.Random) -> tuple[str, str]:
    n = r.randint(2, 12)
    large, small, factor = r.choice(
        [
            ("kilometers", "meters", 1000),
            ("meters", "centimeters", 100),
            ("kilograms", "grams", 1000),
            ("liters", "milliliters", 1000),
            ("hours", "minutes", 60),
            ("minutes", "seconds", 60),
            ("feet", "inches", 12),
            ("yards", "feet", 3),
            ("weeks", "days", 7),
            ("days", "hours", 24),
        ]
    )
    return r.choice(
        [
            (f"How many {small} are in {n} {large}?", f"{n * factor} {small}"),
            (f"Convert {n} {large} to {small}.", f"{n * factor} {small}"),
            (f"Convert {n * factor} {small} to {large}.", f"{n} {large}"),
        ]
    )


def price(r: random.Random) -> tuple[str, str]:
    n, each, m, other = r.randint(2, 9), r.randint(2, 12), r.randint(10, 12), r.randint(1, 9)
    goods, thing, name = r.choice(GOODS), r.choice(THINGS), r.choice(NAMES)
    off, cost = r.choice([10, 20, 25, 30, 40, 50]), r.randint(1, 10) * 20
    bill = min(b for b in (20, 50, 100, 200) if b > n * each)
    return r.choice(
        [
            (f"{name} buys {n} {goods} at ${each} each. How much does {name} pay?", money(n * each)),
            (f"If {n} {goods} cost ${n * each}, how much do {m} {goods} cost?", money(m * each)),
            (f"A {thing} costs ${cost} and is {off}% off. What is the sale price?", money(cost - cost * off // 100)),
            (
                f"{name} buys {n} {goods} at ${each} each and a {thing} for ${other}. What is the total?",
                money(n * each + other),
            ),
            (
                f"{name} buys {n} {goods} at ${each} each and pays with a ${bill} bill. How much change is there?",
                money(bill - n * each),
            ),
        ]
    )


def speed(r: random.Random) -> tuple[str, str]:
    v, t, who = r.randint(2, 12) * 10, r.randint(2, 9), r.choice(["train", "car", "bus", "truck"])
    unit, per = r.choice([("miles", "miles per hour"), ("kilometers", "kilometers per hour")])
    return r.choice(
        [
            (f"A {who} travels at {v} {per} for {t} hours. How far does it go?", f"{v * t} {unit}"),
            (f"A {who} covers {v * t} {unit} in {t} hours. What is its average speed?", f"{v} {per}"),
            (f"How long does a {who} take to travel {v * t} {unit} at {v} {per}?", f"{t} hours"),
        ]
    )


def dates(r: random.Random) -> tuple[str, str]:
    start = date(2026, r.randint(1, 12), r.randint(1, 27))
    n, day = r.randint(2, 16), r.randint(0, 6)
    end, later = start + timedelta(n), r.randint(start.day + 1, 28)
    return r.choice(
        [
            (f"What day of the week is {n} days after {DAYS[day]}?", DAYS[(day + n) % 7]),
            (f"Today is {DAYS[day]}. What day will it be in {n} days?", DAYS[(day + n) % 7]),
            (f"How many days are there from {start:%B} {start.day} to {start:%B} {later}?", number(later - start.day)),
            (f"What is the date {n} days after {start:%B} {start.day}?", f"{end:%B} {end.day}")
            if (start.month, end.month) != (2, 3)
            else (f"What day of the week is {n + 1} days after {DAYS[day]}?", DAYS[(day + n + 1) % 7]),
        ]
    )


def equation(r: random.Random) -> tuple[str, str]:
    x, a, b = r.randint(2, 12), r.randint(2, 9), r.randint(1, 12)
    return r.choice(
        [
            (f"Solve for x: {a}x + {b} = {a * x + b}", number(x)),
            (f"Solve for x: {a}x - {b} = {a * x - b}", number(x)),
            (f"Find x if x + {b} = {x + b}.", number(x)),
            (f"What is x if {a}x = {a * x}?", number(x)),
            (f"Solve {a}(x + {b}) = {a * (x + b)} for x.", number(x)),
        ]
    )


def sequence(r: random.Random) -> tuple[str, str]:
    first, step, ratio, n = r.randint(1, 20), r.randint(2, 10), r.choice([2, 3]), 4
    up = [first + i * step for i in range(n + 1)]
    down = [first + 40 - i * step for i in range(n + 1)]
    start = r.randint(1, 6)
    times = [start * ratio**i for i in range(n + 1)]
    terms = r.choice([up, up, down, times])
    shown = ", ".join(map(str, terms[:n]))
    return r.choice(
        [
            (f"What comes next: {shown}, ?", number(terms[n])),
            (f"What is the next number in the sequence {shown}?", number(terms[n])),
        ]
    )


def average(r: random.Random) -> tuple[str, str]:
    n = r.choice([2, 2, 3])
    values = [r.randint(2, 20) for _ in range(n - 1)]
    values.append(next(v for v in range(r.randint(2, 20), 99) if (sum(values) + v) % n == 0))
    r.shuffle(values)
    shown = f"{', '.join(map(str, values[:-1]))} and {values[-1]}"
    return r.choice(
        [
            (f"What is the average of {shown}?", number(sum(values) // n)),
            (f"Find the mean of {shown}.", number(sum(values) // n)),
        ]
    )


def fraction(r: random.Random) -> tuple[str, str]:
    bottom = r.randint(2, 10)
    top, base = r.randint(1, bottom - 1), bottom * r.randint(2, 12)
    return r.choice(
        [
            (f"What is {top}/{bottom} of {base}?", number(top * base // bottom)),
            (f"Find {top}/{bottom} of {base}.", number(top * base // bottom)),
        ]
    )


def clock(r: random.Random) -> tuple[str, str]:
    hour, minute, length = (
        r.randint(6, 20),
        r.choice([0, 10, 15, 20, 30, 40, 45]),
        r.choice([10, 15, 20, 30, 40, 45, 60, 90]),
    )
    end = hour * 60 + minute + length
    start, stop = f"{hour}:{minute:02}", f"{end // 60}:{end % 60:02}"
    what = r.choice(["meeting", "film", "class", "concert"])
    return r.choice(
        [
            (f"A {what} starts at {start} and lasts {length} minutes. When does it end?", stop),
            (f"How many minutes are there from {start} to {stop}?", f"{length} minutes"),
        ]
    )


def area(r: random.Random) -> tuple[str, str]:
    a, b, side = r.randint(2, 12), r.randint(2, 10), r.randint(2, 12)
    return r.choice(
        [
            (f"What is the area of a rectangle that is {a} m long and {b} m wide?", f"{a * b} square meters"),
            (f"What is the perimeter of a rectangle that is {a} cm long and {b} cm wide?", f"{2 * (a + b)} cm"),
            (f"What is the area of a square with a side of {side} cm?", f"{side * side} square centimeters"),
            (f"What is the perimeter of a square with a side of {side} m?", f"{4 * side} m"),
        ]
    )


KINDS: dict[str, Draw] = {
    "arithmetic": arithmetic,
    "percentage": percentage,
    "units": units,
    "price": price,
    "speed": speed,
    "date": dates,
    "equation": equation,
    "sequence": sequence,
    "average": average,
    "fraction": fraction,
    "time": clock,
    "area": area,
}

OPEN = {
    "fact": [
        "What is the capital of Portugal?",
        "Who wrote Don Quixote?",
        "Which planet is closest to the sun?",
        "What language is spoken in Brazil?",
        "What is the largest ocean on Earth?",
        "Which gas do plants take in from the air?",
        "What is the chemical symbol for gold?",
        "Who painted the Mona Lisa?",
        "What is the longest river in Africa?",
        "Which metal is liquid at room temperature?",
        "What do bees make?",
        "What is the currency of Japan?",
        "Which organ pumps blood through the body?",
        "What is the hardest natural material?",
        "In which country are the pyramids of Giza?",
    ],
    "explanation": [
        "Why is the sky blue?",
        "How does a refrigerator keep food cold?",
        "Why do leaves change color in autumn?",
        "What is machine learning?",
        "How does a vaccine work?",
        "Why do we have seasons?",
        "What causes tides?",
        "How do airplanes stay in the air?",
        "Why does ice float on water?",
        "What is inflation in an economy?",
        "How does a rainbow form?",
        "Why do we need sleep?",
        "What is the difference between weather and climate?",
        "How does the internet send a message?",
        "Why does bread rise?",
    ],
    "code": [
        "Write a Python function that adds two numbers.",
        "Write a Python function that reverses a string.",
        "How do I read a file line by line in Python?",
        "Write a Python function that checks whether a number is even.",
        "How do I sort a list of numbers in Python?",
        "Write a Python loop that prints the numbers from 1 to 5.",
        "How do I remove duplicates from a list in Python?",
        "Write a Python function that returns the larger of two numbers.",
        "How do I join a list of words into one string in Python?",
        "Write a Python function that counts the vowels in a word.",
        "How do I make a dictionary in Python?",
        "Write a Python function that computes a factorial.",
        "How do I catch an error in Python?",
        "Write a Python function that sums a list.",
        "How do I get the length of a list in Python?",
    ],
}


GENERAL = {  # what the base model knows (agent0/evaluate.py --known 8): question -> what stands in it -> answer
    "What is the capital of {}?": {
        "France": "Paris", "England": "London", "Russia": "Moscow", "Greece": "Athens", "Egypt": "Cairo",
        "Japan": "Tokyo", "Canada": "Ottawa", "Sweden": "Stockholm", "South Korea": "Seoul", "Israel": "Jerusalem",
        "the Philippines": "Manila", "Bangladesh": "Dhaka", "Ethiopia": "Addis Ababa", "Senegal": "Dakar",
        "Uganda": "Kampala", "North Korea": "Pyongyang", "the Netherlands": "Amsterdam", "Texas": "Austin",
        "Azerbaijan": "Baku", "Sudan": "Khartoum", "Somalia": "Mogadishu", "Hawaii": "Honolulu",
        "the Czech Republic": "Prague", "Massachusetts": "Boston", "Kuwait": "Kuwait", "Ontario": "Toronto",
    },
    "What is the opposite of {}?": {
        "hot": "cold", "up": "down", "dark": "light", "weak": "strong", "north": "south", "slow": "fast",
        "hard": "soft", "high": "low", "night": "day", "near": "far", "thick": "thin", "rough": "smooth",
        "inside": "outside", "front": "back", "top": "bottom", "increase": "decrease", "success": "failure",
        "positive": "negative", "even": "odd", "more": "less", "push": "pull",
        "south": "north",
    },
    "What language is spoken in {}?": {
        "France": "French", "Germany": "German", "Japan": "Japanese", "Italy": "Italian", "Mexico": "Spanish",
        "Spain": "Spanish", "Chile": "Spanish", "Colombia": "Spanish", "Brazil": "Portuguese", "Turkey": "Turkish",
        "Hungary": "Hungarian", "Peru": "Spanish", "Australia": "English", "Israel": "Hebrew", "Cuba": "Spanish",
        "Romania": "Romanian", "the Netherlands": "Dutch", "Norway": "Norwegian", "Denmark": "Danish",
        "Venezuela": "Spanish", "Ecuador": "Spanish", "the United States": "English", "Canada": "English",
        "Bolivia": "Spanish", "Uruguay": "Spanish", "Iceland": "Icelandic", "New Zealand": "English",
        "Madrid": "Spanish", "Paris": "French", "Berlin": "German", "Tokyo": "Japanese", "Moscow": "Russian",
        "Rome": "Italian",
        "Munich": "German", "Lisbon": "Portuguese", "Seoul": "Korean", "Barcelona": "Spanish",
        "Buenos Aires": "Spanish",
    },
    "What is the currency of {}?": {
        "South Africa": "rand", "Japan": "yen", "Turkey": "lira", "Greece": "euro", "England": "pound",
    },
    "What is the plural of {}?": {
        "mouse": "mice", "child": "children", "dog": "dogs", "cat": "cats", "tree": "trees", "knife": "knives",
        "bus": "buses", "house": "houses", "person": "people", "car": "cars", "wife": "wives", "story": "stories",
        "key": "keys", "day": "days", "watch": "watches", "dish": "dishes", "glass": "glasses", "flower": "flowers",
        "bird": "birds", "hand": "hands", "potato": "potatoes", "toy": "toys", "table": "tables", "chair": "chairs",
        "school": "schools", "friend": "friends", "egg": "eggs", "class": "classes", "star": "stars",
        "window": "windows", "garden": "gardens", "king": "kings", "banana": "bananas",
    },
    "In which country is {}?": {
        "the Eiffel Tower": "France | French", "the Great Wall": "China | Chinese", "the Taj Mahal": "India | Indian",
        "the city of Tokyo": "Japan | Japanese", "the city of Toronto": "Canada | Canadian",
        "the city of Munich": "Germany | German", "the city of Beijing": "China | Chinese",
        "the city of Chicago": "United States", "the city of Cairo": "Egypt | Egyptian",
        "the Forbidden City": "China | Chinese", "the Louvre": "France | French",
        "the Leaning Tower of Pisa": "Italy | Italian", "the city of Lisbon": "Portugal | Portuguese",
        "the city of Athens": "Greece | Greek", "the city of Osaka": "Japan | Japanese",
        "the city of Shanghai": "China | Chinese", "the city of Seville": "Spain | Spanish",
        "the city of Vancouver": "Canada | Canadian", "the city of Johannesburg": "South Africa | South African",
        "the city of Guangzhou": "China | Chinese", "the city of Hiroshima": "Japan | Japanese",
        "the Palace of Versailles": "France | French", "the Sphinx": "Egypt | Egyptian",
        "the city of Nagoya": "Japan | Japanese", "the city of Chennai": "India | Indian",
        "the city of Palermo": "Italy | Italian",
    },
    "What is the chemical symbol for {}?": {
        "water": "H2O", "silver": "Ag", "sodium": "Na", "copper": "Cu", "lead": "Pb", "carbon dioxide": "CO2",
        "hydrogen": "H", "nitrogen": "N", "aluminum": "Al", "chlorine": "Cl", "nickel": "Ni", "uranium": "U",
        "titanium": "Ti", "gold": "Au", "lithium": "Li", "argon": "Ar",
    },
    "What is the {} called?": {
        "center of an atom": "nucleus",
    },
    "What is the {}?": {
        "main language of the United States": "English", "main gas in the air": "nitrogen",
        "holy book of Islam": "Quran", "longest river in Africa": "Nile", "holy book of Christianity": "Bible",
        "holy book of Judaism": "Torah", "capital city of the United Kingdom": "London",
        "main language of Mexico": "Spanish", "main language of Germany": "German",
        "largest city in the United States": "New York", "largest rainforest in the world": "Amazon",
        "highest mountain in Africa": "Kilimanjaro", "capital city of Japan": "Tokyo",
    },
    "Who {}?": {
        "wrote Romeo and Juliet": "Shakespeare", "developed the theory of relativity": "Einstein",
        "wrote Macbeth": "Shakespeare", "founded Apple": "Jobs", "proposed the heliocentric model": "Copernicus",
        "founded psychoanalysis": "Freud", "wrote The Great Gatsby": "Fitzgerald", "wrote King Lear": "Shakespeare",
        "wrote To Kill a Mockingbird": "Lee", "wrote The Divine Comedy": "Dante",
        "discovered the laws of motion": "Newton",
    },
    "Which {}?": {
        "river flows through Egypt": "Nile", "language did the Romans speak": "Latin",
        "desert is in northern Africa": "Sahara",
    },
    "What {}?": {
        "organ pumps blood": "heart", "force pulls objects toward the Earth": "gravity", "is steel made from": "iron",
        "is paper made from trees called": "paper", "gas do plants take in": "carbon dioxide",
    },
    "On which continent is {}?": {
        "Argentina": "South America", "South Africa": "Africa", "Colombia": "South America",
    },
    "What color is {}?": {
        "an orange": "orange",
    },
    "What is the study of {} called?": {
        "the mind": "psychology", "plants": "botany", "animals": "zoology", "numbers": "mathematics",
        "the weather": "meteorology", "fossils": "paleontology",
    },
    "What is a person who {} called?": {
        "writes poems": "poet",
    },
}  # fmt: skip


REPLAY = [  # asked of the base model, which is trained on its own answers to them
    *(f"What is the capital of {place}?" for place in (
        "Denmark", "Finland", "Belgium", "Cuba", "Peru", "Kenya", "Thailand", "Iran", "Ukraine", "Spain",
        "Turkey", "Argentina", "Mexico", "Australia", "Brazil", "Switzerland", "Romania", "Colombia", "Chile",
        "Morocco", "Indonesia", "Pakistan", "Iraq", "Vietnam", "Scotland", "Bulgaria", "Serbia",
    )),
    *(f"In which country is {place}?" for place in (
        "Berlin", "the city of Milan", "Mount Fuji", "the Grand Canyon", "Machu Picchu", "the city of Mumbai",
        "the Acropolis", "Stonehenge", "the Statue of Liberty", "the city of Sydney", "the Kremlin", "Niagara Falls",
    )),
    *(f"On which continent is {place}?" for place in (
        "Nigeria", "Chile", "Vietnam", "Morocco", "Australia", "Norway", "China", "France", "Egypt", "Canada", "Peru",
        "Japan",
    )),
    *(f"What language is spoken in {place}?" for place in (
        "Russia", "China", "Sweden", "Argentina", "Greece", "England", "Portugal", "Poland", "Egypt", "Austria",
    )),
    *(f"What is the currency of {place}?" for place in (
        "China", "India", "Russia", "Mexico", "Germany", "Canada", "Switzerland", "Australia",
    )),
    *(f"What is the opposite of {word}?" for word in (
        "fast", "light", "happy", "rich", "early", "open", "old", "wet", "full", "left", "day", "strong",
    )),
    *(f"What is the plural of {word}?" for word in ("foot", "tooth", "man", "book", "woman", "leaf", "city", "box")),
    *(f"Translate the word {word}." for word in (
        "house into Spanish", "water into French", "book into German", "friend into Spanish", "thanks into French",
    )),
    *(f"Who {did}?" for did in (
        "wrote The Odyssey", "wrote Pride and Prejudice", "discovered penicillin", "invented the light bulb",
        "painted Guernica", "composed the Fifth Symphony", "was Cleopatra", "was Isaac Newton", "wrote Hamlet",
        "invented the telephone", "discovered radium", "was the first president of the United States",
        "painted the Sistine Chapel", "wrote War and Peace", "was Albert Einstein", "discovered America",
    )),
    *(f"What is {thing}?" for thing in (
        "a volcano", "a democracy", "a computer", "the moon", "an atom", "a poem", "electricity", "a river",
        "the chemical symbol for iron", "the largest country in the world", "the freezing point of water",
        "a good breakfast", "the internet", "a library", "the chemical symbol for oxygen", "the largest planet",
        "the nearest star", "the tallest animal", "a desert", "evaporation", "a vegetable", "the Milky Way",
    )),
    *(f"What {question}?" for question in (
        "do you call a young dog", "do you call a young cat", "do you call a young sheep", "is butter made from",
        "is cheese made from", "is paper made from", "is wine made from", "color is snow", "color is blood",
        "color is grass", "color is a banana", "do cows eat", "do fish breathe with", "pumps water through a plant",
    )),
    *(f"Which {question}?" for question in (
        "season comes after autumn", "month comes after June", "month comes after March", "day comes after Monday",
        "organ do we hear with", "organ do we see with", "gas do plants take in", "gas do we breathe in",
        "force keeps planets in their orbits", "ocean lies between America and Asia", "planet is known as the red one",
        "metal is used for wires", "animal is the king of the jungle",
    )),
    *(f"Why {matter}?" for matter in (
        "do we eat", "is exercise healthy", "does it rain", "do birds fly south", "is the sea salty", "do cats purr"
    )),
    *(f"How {matter}?" for matter in (
        "do I make tea", "do plants grow", "does a bicycle work", "can I sleep better", "do I write a letter",
        "many days are in a leap year", "many minutes are in an hour", "many sides does a triangle have",
        "many legs does a spider have", "many months are in a year", "many planets are there",
        "many letters are in the alphabet",
    )),
    "Write a sentence about a dog.",
    "Write a short greeting for a friend.",
    "Name three fruits.",
    "Name three colors.",
    "Give me a tip for learning a language.",
]  # fmt: skip


def draw_questions(seed: int) -> dict[str, list[dict]]:
    """Return split → rows {id, kind, question, answer}; nothing is asked twice, in other words either."""
    r, seen = random.Random(seed), set()
    splits: dict[str, list[dict]] = {split: [] for split in SIZES}
    for kind, draw in KINDS.items():
        for split, count in SIZES.items():
            while count:
                question, answer = draw(r)
                asked = (kind, answer, *re.findall(r"\d+", question))
                if asked not in seen:
                    seen.add(asked)
                    splits[split].append({"kind": kind, "question": question, "answer": answer})
                    count -= 1
    splits["day"] += [
        {"kind": kind, "question": question, "answer": None} for kind, texts in OPEN.items() for question in texts
    ]
    splits["general"] = [
        {"kind": "general", "question": question.format(about), "answer": answer}
        for question, answers in GENERAL.items()
        for about, answer in answers.items()
    ]
    splits["replay"] = [{"kind": "general", "question": question, "answer": None} for question in REPLAY]
    for split, rows in splits.items():
        r.shuffle(rows)
        splits[split] = [{"id": f"{split}-{n:03}", **row} for n, row in enumerate(rows, 1)]
    return splits


def main() -> None:
    from agent0.records import Question, write_jsonl

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    for split, rows in draw_questions(arguments.seed).items():
        path = arguments.folder / f"{split}.jsonl"
        write_jsonl(path, [Question(**row) for row in rows])
        print(f"{path}: {len(rows)} questions")


if __name__ == "__main__":
    main()
