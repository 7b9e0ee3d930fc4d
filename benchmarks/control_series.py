"""Controls of SPS: series that forget within some tokens, and series that do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.signal import lfilter

from bdh.frontier import sps
from bdh.frontier.survey import Updates
from benchmarks.control_text import text
from benchmarks.controls import NULL, PLANTED, TWINS, Control, Row

SERIES, BURN = 8, 400
LAPTOP, SHORT = 8192, 2048
DRAWS = 100
Maker = Callable[[int, np.random.Generator], np.ndarray]


def gaussian_noise(hurst: float, points: int, generator: np.random.Generator, series: int = 8) -> np.ndarray:
    """Fractional Gaussian noise (series, points) by circulant embedding (Davies & Harte 1987)."""
    lag = np.arange(points, dtype=float)
    covariance = 0.5 * ((lag + 1) ** (2 * hurst) - 2 * lag ** (2 * hurst) + np.abs(lag - 1) ** (2 * hurst))
    power = np.clip(np.fft.fft(np.concatenate([covariance, covariance[-2:0:-1]])).real, 0.0, None)
    noise = generator.normal(size=(2, series, power.size))
    return np.fft.fft(np.sqrt(power / power.size) * (noise[0] + 1j * noise[1])).real[:, :points]


def filtered(numerator: list[float], denominator: list[float], heavy: bool = False) -> Maker:
    """Normal (or, `heavy`, t with 2.5 degrees of freedom) innovations through a filter."""

    def make(points: int, generator: np.random.Generator) -> np.ndarray:
        shape = (SERIES, points + BURN)
        innovations = generator.standard_t(2.5, shape) if heavy else generator.normal(size=shape)
        return np.asarray(lfilter(numerator, denominator, innovations)[:, BURN:])

    return make


def autoregressive(*coefficients: float) -> Maker:
    """x_t = sum of coefficients times earlier values, plus noise."""
    return filtered([1.0], [1.0, *(-one for one in coefficients)])


def together(*parts: tuple[float, Maker]) -> Maker:
    """The sum of independent processes of these standard deviations."""

    def make(points: int, generator: np.random.Generator) -> np.ndarray:
        found = np.zeros((SERIES, points))
        for deviation, part in parts:
            series = part(points, generator)
            found += deviation * series / series.std()
        return found

    return make


def alike(share: float, part: Maker) -> Maker:
    """Series that share a part of their variance, as projections of one state do."""

    def make(points: int, generator: np.random.Generator) -> np.ndarray:
        series = part(points, generator)
        return np.sqrt(1 - share) * series + np.sqrt(share) * series[:1]

    return make


def fractional(exponent: float) -> Maker:
    """Fractional Gaussian noise."""
    return lambda points, generator: gaussian_noise(exponent, points, generator)


def wave(period: int) -> Maker:
    """A sine wave of that period, in a phase of its own."""
    return lambda points, generator: np.sin(2 * np.pi * (np.arange(points) / period + generator.random((SERIES, 1))))


def swelling(points: int, generator: np.random.Generator) -> np.ndarray:
    """Short memory whose size swells and shrinks slowly."""
    return autoregressive(0.8)(points, generator) * np.exp(0.05 * np.cumsum(generator.normal(size=points)))


def moving_sum(length: int) -> Maker:
    """Sums of the last innovations."""
    return filtered([1.0] * length, [1.0])


NOISE, SEASON = autoregressive(), [0.0] * 23 + [0.6]
SHORT_MEMORY: dict[str, Maker] = {
    "memoryless updates": NOISE,
    "AR(1) .5": autoregressive(0.5),
    "AR(1) .8, half-life 3 tokens": autoregressive(0.8),
    "AR(1) .9, half-life 7 tokens": autoregressive(0.9),
    "AR(1) .95, half-life 14 tokens": autoregressive(0.95),
    "AR(1) .98, half-life 34 tokens": autoregressive(0.98),
    "AR(1) -.7": autoregressive(-0.7),
    "AR(2), oscillating": autoregressive(1.2, -0.5),
    "AR(3)": autoregressive(0.4, 0.3, 0.2),
    "MA(5)": moving_sum(5),
    "MA(20)": moving_sum(20),
    "seasonal, lag 24": autoregressive(*SEASON),
    "a wave of 40 tokens and AR(1) .3": together((0.7, wave(40)), (1.0, autoregressive(0.3))),
    "noise and AR(1) .9": together((1.0, NOISE), (0.5, autoregressive(0.9))),
    "noise and AR(1) .97": together((1.0, NOISE), (0.5, autoregressive(0.97))),
    "AR(1) .5 and AR(1) .97": together((1.0, autoregressive(0.5)), (0.7, autoregressive(0.97))),
    "AR(1) .9, heavy-tailed": filtered([1.0], [1.0, -0.9], heavy=True),
    "AR(1) .9, squared": lambda points, generator: autoregressive(0.9)(points, generator) ** 2,
    "AR(1) .9, rectified": lambda points, generator: np.maximum(autoregressive(0.9)(points, generator), 0),
    "AR(1) .8, slowly swelling": swelling,
    "AR(1) .9, half of it shared": alike(0.5, autoregressive(0.9)),
}
LONG_MEMORY: dict[str, Maker] = {
    **{f"fractional Gaussian noise, H {h:g}": fractional(h) for h in (0.6, 0.65, 0.7, 0.75, 0.8, 0.9)},
    "fractional noise, H 0.8, and as much noise": together((1.0, NOISE), (1.0, fractional(0.8))),
    "fractional noise, H 0.8, a quarter shared": alike(0.25, fractional(0.8)),
}


def sps_of(seed: int, series: np.ndarray, strength: float = 0.0) -> Row:
    """Twins are noise, with `strength` of an AR(1) of .9."""
    points = series.shape[1]
    held_out = text(lengths=(points // 8,) * 8, window=64 if points < LAPTOP else 128)
    generator, twins = np.random.default_rng([seed, 3]), []
    memory = together((1.0, NOISE), (strength, autoregressive(0.9)))
    for _ in range(TWINS):
        twins.append(sps.numbers(Updates(memory(points, generator)), held_out))
    return sps.measure(Updates(series), twins, held_out, 0.99, draws=DRAWS, seed=seed)[0]


def made(make: Maker, points: int) -> Callable[[int], Row]:
    """The row of a series by seed."""
    return lambda seed: sps_of(seed, make(points, np.random.default_rng([seed, 4])))


def controls() -> list[Control]:
    """The controls of this module."""
    found = []
    for points in (SHORT, LAPTOP):
        nulls = SHORT_MEMORY if points == LAPTOP else {name: SHORT_MEMORY[name] for name in list(SHORT_MEMORY)[1:12:2]}
        planted = LONG_MEMORY if points == LAPTOP else {name: LONG_MEMORY[name] for name in list(LONG_MEMORY)[2:6]}
        found += [Control("sps", NULL, f"{n}, {points} tokens", made(make, points)) for n, make in nulls.items()]
        found += [Control("sps", PLANTED, f"{n}, {points} tokens", made(make, points)) for n, make in planted.items()]
    quarter = autoregressive(0.9)
    found.append(
        Control(
            "sps",
            NULL,
            f"AR(1) .9, twins a quarter as strong, {LAPTOP} tokens",
            lambda seed: sps_of(seed, quarter(LAPTOP, np.random.default_rng([seed, 4])), strength=0.25),
        )
    )
    against = fractional(0.3)
    found.append(
        Control("sps", PLANTED, f"fractional Gaussian noise, H 0.3, {LAPTOP} tokens", made(against, LAPTOP), below=True)
    )
    return found
