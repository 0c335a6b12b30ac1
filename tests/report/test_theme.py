"""Every colour is seen on what it stands on, in both schemes."""

import re
from importlib import resources

import pytest

from bitnet_jax.report.kinds import COLOURS
from bitnet_jax.report.theme import DARK, LIGHT, SCHEMES, SHADES, contrast, variables

TEXTS = ("ink", "muted", "good", "bad")


def test_contrast_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=1e-3)
    assert contrast("#123456", "#123456") == 1


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", TEXTS)
def test_text_can_be_read(scheme, name):
    colours = SCHEMES[scheme]
    for ground in ("page", "surface"):
        assert contrast(colours[name], colours[ground]) >= 4.5, ground


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", [*COLOURS, "base"])
def test_marks_can_be_seen(scheme, name):
    assert contrast(SCHEMES[scheme][name], SCHEMES[scheme]["surface"]) >= 3


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", COLOURS)
def test_text_in_a_tinted_box_can_be_read(scheme, name):
    colours = SCHEMES[scheme]
    share = [int(colours[c][i : i + 2], 16) for c in (name, "surface") for i in (1, 3, 5)]
    mixed = [round(0.12 * a + 0.88 * b) for a, b in zip(share[:3], share[3:], strict=True)]
    box = "#" + "".join(f"{value:02x}" for value in mixed)
    for text in ("ink", "muted"):
        assert contrast(colours[text], box) >= 4.5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_shades_rise_evenly_and_the_least_is_no_gap(scheme):
    colours = SCHEMES[scheme]
    against = [contrast(colours[f"h{i}"], colours["surface"]) for i in range(SHADES)]
    assert against == sorted(against) and len(set(against)) == SHADES
    assert against[0] >= 1.25 and against[-1] >= 7


def test_both_schemes_name_the_same_colours_and_the_style_names_no_other():
    assert list(LIGHT) == list(DARK)
    style = (resources.files("bitnet_jax.report") / "page.css").read_text()
    assert not re.search(r"#[0-9a-f]{3}|rgb|hsl", style)
    assert {name for name in re.findall(r"var\(--c-([\w]+)\)", style)} <= set(LIGHT)
    assert variables().count("--c-ink:") == 4  # light, chosen dark, the system's dark, paper
