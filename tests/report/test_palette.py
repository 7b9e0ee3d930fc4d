"""Colours: distinct for every kind of colour vision, visible on their page."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from bdh.report.plots.figure import DARK, LIGHT

STYLE = Path(__file__).resolve().parents[2] / "bdh/report/page.css"
VISION = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "full": np.eye(3).tolist(),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    share = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    white = np.array([0.9505, 1.0, 1.089])
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / white
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def luminance(colour: str) -> float:
    return float(TO_XYZ[1] @ linear(colour))


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_palette_keeps_every_pair_apart(colours, vision):
    seen = [lab(np.array(VISION[vision]) @ linear(colour)) for colour in colours]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) >= 24


@pytest.mark.parametrize(("colours", "page"), [(LIGHT, 0), (DARK, 1)], ids=["light", "dark"])
def test_palette_stands_out_from_its_page(colours, page):
    behind = luminance(re.findall(r"--page: (#\w{6});", STYLE.read_text(encoding="utf-8"))[page])
    for colour in colours:
        high, low = sorted((luminance(colour), behind), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 3.0
