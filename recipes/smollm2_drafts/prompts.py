"""Prompts of the training text: openings the target completes, instructions, Python functions.

Nothing here comes from a benchmark; `exclusion.py` checks that by hash as well.
"""

import ast
import random
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

OPENINGS = (
    """
What is|What are the main|What are the benefits of|What is the difference between|How do I
How does|How can I|How many|How would you|Why is|Why do|Why does|When did|Where can I find
Who was|Which|Can you explain|Can you help me|Could you write|Can you give me|Can you suggest
Please write|Please explain|Please summarize|Write a short story about|Write a poem about
Write an email to|Write a letter to|Write a paragraph about|Write a product description for
Write a dialogue between|Write a speech|Write a blog post about|Write a function that
Write a Python program to|Write a Python function|Write a SQL query|Write a JavaScript function
Write a bash script|Write a haiku|Write a review of|Write instructions for|Write a summary of
Explain how|Explain why|Explain the concept of|Explain to a child|Describe the|Describe how
List five|List the|Give me three|Give me a list of|Give an example of|Create a|Create a list of
Create a plan for|Design a|Suggest some|Recommend a|Compare|Summarize the following text:
Rewrite the following sentence:|Translate the following|Correct the grammar of|Classify the
Identify the|Find the|Solve the|Calculate the|If a train|A farmer has|John has|Sarah bought
I have a|I am trying to|I want to|I need to|I'm planning a|I feel|I am writing|My friend
My boss|My computer|Tell me about|Tell me a|Tell me how|Do you|Is it|Are there|Should I
Imagine you are|You are a|Act as|Pretend|Let's|Hello|Hi,|Good morning|Thank you|In what year
Edit the following|Turn this into|Make a|Generate a|Provide a|Discuss the|Analyze the|Define
Convert|Name three|Outline the|Given a list of|Given the following|Based on the|In Python,
How to|Fix the following code:|What does this code do?|Debug|Implement a|Refactor|Use the
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
"""Beginnings of a question that the target finishes and then answers."""

TOPICS = (
    """
the water cycle|photosynthesis|a black hole|gravity|the French Revolution|the Roman Empire
ancient Egypt|the Great Wall of China|the Renaissance|the Industrial Revolution|democracy
inflation|supply and demand|the stock market|compound interest|a household budget|taxes
starting a small business|a job interview|time management|public speaking|teamwork|leadership
remote work|a difficult customer|a birthday party|a wedding speech|a camping trip|gardening
growing tomatoes|indoor plants|baking bread|a vegetarian dinner|chocolate cake|healthy breakfasts
running a marathon|yoga|strength training|better sleep|stress|meditation|drinking enough water
a balanced diet|the human heart|the immune system|vaccines|DNA|evolution|climate change
renewable energy|solar panels|electric cars|recycling|plastic pollution|endangered species
the Amazon rainforest|coral reefs|volcanoes|earthquakes|hurricanes|the moon|Mars|the solar system
space travel|telescopes|artificial intelligence|machine learning|neural networks|the internet
computer viruses|strong passwords|databases|operating systems|recursion|sorting algorithms
binary search|hash tables|linked lists|object-oriented programming|version control|unit tests
web design|mobile phones|social media|video games|chess|football|basketball|swimming|cycling
learning the guitar|the piano|classical music|jazz|painting|photography|film making|theatre
Shakespeare|poetry|science fiction|detective stories|fairy tales|a lost dog|a brave knight
a dragon who is afraid of fire|a robot who learns to love|a lighthouse keeper|a time traveler
two old friends|a haunted house|a talking cat|a journey across the desert|a storm at sea
learning a new language|English grammar|Spanish verbs|writing an essay|taking notes|exams
mathematics|fractions|percentages|geometry|probability|prime numbers|algebra|statistics
Paris|Tokyo|New York|a weekend in Rome|a trip to India|Kenya|Australia|the Arctic|the ocean
trains|airplanes|bridges|skyscrapers|houses|furniture|clothes|shoes|coffee|tea|chocolate|cheese
friendship|honesty|courage|kindness|patience|happiness|loneliness|grief|hope|family|children
parents|teachers|doctors|farmers|engineers|scientists|cats|dogs|bees|whales|elephants|birds
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
"""Subjects put into `INSTRUCTIONS`."""

INSTRUCTIONS = [
    "Explain {} in simple terms.",
    "Explain {} to a ten-year-old.",
    "What should everybody know about {}?",
    "Write a short story about {}.",
    "Write a short poem about {}.",
    "Give me five tips about {}.",
    "List ten facts about {}.",
    "Write an email to a friend about {}.",
    "Write a formal letter to the city council about {}.",
    "Write a polite message to my manager about {}.",
    "I am giving a talk about {}. Can you write an introduction?",
    "What are the advantages and disadvantages of {}?",
    "How did people think about {} a hundred years ago?",
    "What questions should I ask an expert on {}?",
    "Compare {} and {}.",
    "What do {} and {} have in common?",
    "Write a dialogue in which two people discuss {}.",
    "Summarize the most important points about {} in three sentences.",
    "Make a one-week plan for learning about {}.",
    "Create a quiz with four questions about {}, with answers.",
    "Write a product description related to {}.",
    "Write a news article about {}.",
    "I feel nervous about {}. What can I do?",
    "Give me step-by-step instructions for getting started with {}.",
    "Write the opening paragraph of an essay on {}.",
    "Why is {} important?",
    "What are some common mistakes people make with {}?",
    "Suggest three titles for a book about {} and explain your choice.",
    "Write a review of a museum exhibition about {}.",
    "How does {} affect our daily lives?",
    "Describe {} using all five senses.",
    "Tell me a joke about {} and explain why it is funny.",
    "Write a diary entry that mentions {}.",
    "How would you teach {} to a class of teenagers?",
    "Write a Python class that models something from the field of {}.",
    "Write a small program that prints a menu about {} and reads the user's choice.",
    "Rewrite this sentence so that it is clearer: the thing about {} is that it is a thing that"
    " many people have opinions on.",
    "Correct the grammar: me and my brother was talking about {} when it begun to rain.",
    "Is it true that {} has changed a lot in recent years? Answer briefly.",
    "You are a helpful tour guide. Say something about {}.",
]

SUMS = [
    "A shop sells {a} apples for {b} dollars each. How much money does it take in?",
    "Tom has {a} marbles and gives {b} to each of {c} friends. How many are left?",
    "What is {a} times {b}?",
    "What is {a} plus {b} minus {c}?",
    "A car drives {a} miles in {c} hours. What is its average speed?",
    "A recipe for {c} people needs {b} eggs. How many eggs are needed for {a} people?",
    "The sides of a rectangle are {a} cm and {b} cm. What are its area and perimeter?",
    "What is {b} percent of {a}?",
    "Solve for x: {c}x + {b} = {a}.",
    "Sort these numbers from smallest to largest: {a}, {b}, {c}, {d}.",
]

ACTIONS = (
    """
count|find|remove|merge|sort|filter|reverse|check|compute|sum|split|join|replace|group|rotate
flatten|compare|encode|decode|parse|format|validate|convert|search|select|insert|shift|swap
partition|interleave|multiply|average|rank|index|trim|pad|capitalize|compress|expand|repeat
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
THINGS = (
    """
words|numbers|digits|vowels|letters|lists|pairs|strings|duplicates|elements|characters|lines
primes|factors|matrix|rows|columns|intervals|dates|names|brackets|sentences|prices|scores|points
triangles|squares|keys|values|tuples|substring|prefix|suffix|palindromes|anagrams|temperatures
fractions|coordinates|colors|emails|files|records|inventory|students|grades|cards|coins|paths
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
ARGUMENTS = [
    "numbers: List[int]) -> int",
    "numbers: List[int]) -> List[int]",
    "values: List[float]) -> float",
    "text: str) -> str",
    "text: str) -> int",
    "text: str) -> bool",
    "words: List[str]) -> List[str]",
    "words: List[str], length: int) -> List[str]",
    "n: int) -> int",
    "n: int) -> bool",
    "n: int) -> List[int]",
    "a: int, b: int) -> int",
    "table: Dict[str, int]) -> List[str]",
    "matrix: List[List[int]]) -> List[int]",
    "items: List[Tuple[str, int]]) -> Dict[str, int]",
    "lst)",
    "s)",
    "x, y)",
    "arr, k)",
    "string, char)",
    "dictionary)",
]
DOC_STARTS = [
    " Return",
    "Given a list of",
    "Given a string",
    "Given an integer n,",
    " Check if",
    " Find the",
    " Count the",
    " You are given",
    "Write a function that",
    "Create a function which",
    "This function takes",
    " Returns a",
    "For a given",
    "Compute the",
    " Return True if",
    " Input is a",
    "Take a list",
    "Filter",
    "The function should",
]

REQUESTS = [
    "{}",
    "{}",
    "{}",
    "Complete this function:\n\n{}",
    "Complete the following Python function.\n\n```python\n{}```",
    "Write the body of this Python function:\n\n{}",
    "Please implement this:\n\n{}",
    "```python\n{}```\nFinish the code.",
]


class Kind(IntEnum):
    """Which sort of text a row holds."""

    OPENING = 0
    INSTRUCTION = 1
    LIBRARY = 2
    DOCSTRING = 3


@dataclass
class Prompt:
    """The beginning of a user turn."""

    text: str
    """What stands after the user header."""
    is_open: bool
    """Whether the target goes on writing the user turn."""
    ends_at_quotes: bool = False
    """Whether the open turn ends with the docstring's closing quotes."""


def opening(rng: random.Random) -> Prompt:
    """Return a question's first words."""
    return Prompt(rng.choice(OPENINGS) if rng.random() < 0.9 else "", is_open=True)


def instruction(rng: random.Random) -> Prompt:
    """Return a whole instruction made from a template."""
    if rng.random() < 0.1:
        names = {name: rng.randint(2, 90) for name in "abcd"}
        return Prompt(rng.choice(SUMS).format(**names), is_open=False)
    return Prompt(rng.choice(INSTRUCTIONS).format(*rng.sample(TOPICS, 2)), is_open=False)


def docstring(rng: random.Random) -> Prompt:
    """Return a signature and the first words of its docstring."""
    name = f"{rng.choice(ACTIONS)}_{rng.choice(THINGS)}"
    arguments = rng.choice(ARGUMENTS)
    imports = "from typing import List, Dict, Tuple\n\n" if "[" in arguments else ""
    if "List" in arguments and "Dict" not in arguments and "Tuple" not in arguments:
        imports = "from typing import List\n\n"
    quotes = rng.choice(['"""', '"""', '"""', "'''"])
    start = rng.choice(["", rng.choice(DOC_STARTS), f"\n    >>> {name}("])
    text = f"{imports}\ndef {name}({arguments}:\n    {quotes}{start}"
    return Prompt(text if imports or rng.random() < 0.5 else text.lstrip(), True, True)


def library_functions() -> list[str]:
    """Return signature and docstring of the documented functions of Python's standard library."""
    found: set[str] = set()
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root).parts
        if {"site-packages", "test", "tests", "lib2to3", "idlelib"} & set(inside):
            continue
        try:
            tree = ast.parse(path.read_text("utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        imports = [
            ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and (doc := ast.get_docstring(node)):
                stub = headed(node, doc, imports[:2] if len(doc) % 3 == 0 else [])
                if 60 < len(stub) < 700 and stub.isascii():
                    found.add(stub)
    return sorted(found)


def headed(node: ast.FunctionDef, doc: str, imports: list[str]) -> str:
    """Write a function's imports, first line and docstring; the body is left out."""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    lines = doc.splitlines()
    body = "\n".join(f"    {line}".rstrip() for line in ['"""' + lines[0], *lines[1:], '"""'])
    head = "\n".join(imports) + "\n\n\n" if imports else ""
    return f"{head}def {node.name}({ast.unparse(node.args)}){returns}:\n{body}\n"


def prompts(kind: Kind, rng: random.Random) -> Iterator[Prompt]:
    """Yield prompts of one kind without end."""
    stubs = library_functions() if kind is Kind.LIBRARY else []
    makers: dict[Kind, Callable[[random.Random], Prompt]] = {
        Kind.OPENING: opening,
        Kind.INSTRUCTION: instruction,
        Kind.LIBRARY: lambda rng: Prompt(rng.choice(REQUESTS).format(rng.choice(stubs)), False),
        Kind.DOCSTRING: docstring,
    }
    while True:
        yield makers[kind](rng)
