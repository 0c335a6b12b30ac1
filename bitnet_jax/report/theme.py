"""The colours of a page, light and dark, and how well one is seen on another.

The only place that names a colour: page.css uses their variables. A test holds every pair to
the contrast that it needs.
"""

from __future__ import annotations

from collections.abc import Mapping

from bitnet_jax.report.kinds import COLOURS

# How many shades a chart of shades has, from the least value to the greatest.
SHADES = 9

LIGHT = {
    "page": "#f3f5f8",
    "surface": "#ffffff",
    "ink": "#1a2029",
    "muted": "#566070",
    "border": "#d5dbe3",
    "grid": "#e4e8ee",
    "base": "#7b8594",
    "1": "#2563c9",
    "2": "#c2540a",
    "3": "#0b7a6e",
    "4": "#7a45d1",
    "5": "#bb2472",
    "6": "#567a0c",
    "neutral": "#7d8896",
    "good": "#15783a",
    "bad": "#b42318",
}
DARK = {
    "page": "#0d1117",
    "surface": "#161c25",
    "ink": "#e7ecf3",
    "muted": "#9fabba",
    "border": "#2e3744",
    "grid": "#27303c",
    "base": "#748092",
    "1": "#6ba3ff",
    "2": "#ff9a4d",
    "3": "#35cdb9",
    "4": "#b795ff",
    "5": "#ff7dbb",
    "6": "#a6d63b",
    "neutral": "#8390a1",
    "good": "#4cd07d",
    "bad": "#ff7a70",
}
# The ends of the shades: least and greatest.
_RAMPS = {"light": ("#d3e2f7", "#0b2f6b"), "dark": ("#203352", "#cfe3ff")}
SCHEMES: dict[str, dict[str, str]] = {"light": LIGHT, "dark": DARK}


def _mixed(low: str, high: str, share: float) -> str:
    pairs = zip(_channels(low), _channels(high), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def _channels(colour: str) -> list[int]:
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]


for _name, _scheme in SCHEMES.items():
    _low, _high = _RAMPS[_name]
    for _index in range(SHADES):
        _scheme[f"h{_index}"] = _mixed(_low, _high, _index / (SHADES - 1))


def contrast(one: str, other: str) -> float:
    """Returns the contrast of two colours, from 1 to 21, as WCAG 2 defines it."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    shares = [value / 255 for value in _channels(colour)]
    light = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in shares]
    return 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]


def variables() -> str:
    """Returns the style that gives every colour its variable in both schemes."""
    light, dark = _declared(LIGHT), _declared(DARK)
    return (
        f":root{{color-scheme:light;{light}}}"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}"
        "@media(prefers-color-scheme:dark){"
        f":root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}"
        # Paper is white, whatever the screen was.
        f"@media print{{:root,:root[data-theme],:root:not([data-theme=light])"
        f"{{color-scheme:light;{light}}}}}"
    )


def _declared(scheme: Mapping[str, str]) -> str:
    return "".join(f"--c-{name}:{colour};" for name, colour in scheme.items())


def classes() -> str:
    """Returns the classes that charts name: f fills, s strokes, b a block, h a shade."""
    names = COLOURS
    rules = [f".f{n}{{fill:var(--c-{n})}}.s{n}{{stroke:var(--c-{n})}}" for n in names]
    rules += [
        f".b{n}{{stroke:var(--c-{n});fill:color-mix(in srgb,var(--c-{n}) 12%,var(--c-surface))}}"
        for n in names
    ]
    rules += [f".h{index}{{fill:var(--c-h{index})}}" for index in range(SHADES)]
    return "".join(rules)
