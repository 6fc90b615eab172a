"""Embeddings: which text is nearest to a question."""

import math

import portero

TEXTS = [
    "Cats purr when they are content.",
    "Interest rates rose in spring.",
    "Dogs wag their tails.",
]
QUESTION = "What do pets do when they are happy?"


def likeness(one: list[float], other: list[float]) -> float:
    """The cosine of the angle between two vectors: 1 for the same direction."""
    return sum(a * b for a, b in zip(one, other, strict=True)) / (
        math.hypot(*one) * math.hypot(*other)
    )


with portero.Portero() as client:
    model = client.models().names[0]
    asked, *vectors = client.embed(model, [QUESTION, *TEXTS]).vectors
    for text, vector in zip(TEXTS, vectors, strict=True):
        print(f"{likeness(asked, vector):.3f} {text}")
