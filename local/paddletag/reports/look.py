"""The common look of pages, pictures and videos: the colours, and the order of the classes."""

import numpy as np

# page: behind everything, and behind a score. accent: a score that reaches its threshold; lane: one that does not;
# shade: behind an event. warm: the cursor, and what needs attention.
DARK = {
    "page": "#14171b", "panel": "#1d2127", "line": "#363d46", "text": "#e8ebee", "faint": "#a0a9b3",
    "accent": "#62b0f5", "lane": "#456788", "shade": "#22384e", "warm": "#ffa45c",
}  # fmt: skip
LIGHT = {
    "page": "#f4f6f8", "panel": "#ffffff", "line": "#d8dde3", "text": "#1a1f26", "faint": "#59636e",
    "accent": "#0b62b8", "lane": "#a3bfda", "shade": "#dcebf9", "warm": "#b04a00",
}  # fmt: skip


def class_order(scores: np.ndarray) -> np.ndarray:
    """The classes of scores [N, C] in the order of lanes and bars: the highest peak first. int [C]."""
    return np.argsort(-np.asarray(scores).max(0), kind="stable")


def css_colours() -> str:
    """The colours as variables of CSS, each for light and dark pages."""
    lines = "".join(f"  --{name}: light-dark({LIGHT[name]}, {colour});\n" for name, colour in DARK.items())
    return f":root {{\n{lines}}}\n"
