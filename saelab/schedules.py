"""Schedules: factors between 0 and 1 by which a learning rate or the weight of a loss changes over a run; plain functions.

A ramp rises with what is done and falls with what is left, in any unit: `linear(step, warmup)` is a warm-up,
`linear(steps - step, decay)` a decay, and `linear(progress, 0.2)` a weight that is full after a fifth of the run. A ramp of no length is
constant.
"""

import math
from typing import Literal

Shape = Literal["linear", "cosine"]
"""How a ramp goes from 0 to 1."""


def linear(way: float, length: float) -> float:
    """From 0 to 1 in a straight line as `way` goes from 0 to `length`; 1 beyond, and 1 everywhere where `length` is 0."""
    return 1.0 if way >= length else max(0.0, way / length)


def cosine(way: float, length: float) -> float:
    """From 0 to 1 along half a cosine, level at both ends, as `way` goes from 0 to `length`; else as `linear`."""
    return (1 - math.cos(math.pi * linear(way, length))) / 2


def learning_rate(step: int, steps: int, warmup: int, decay: float, shape: Shape = "linear") -> float:
    """The factor of the learning rate at a step: it rises in a straight line, stays at 1 and falls to 0.

    Arguments:
    - `step`: the step to come, from 0.
    - `steps`: all of them.
    - `warmup`: steps over which it rises.
    - `decay`: share of the run, at its end, over which it falls; 0 for never, 1 with `cosine` for the usual cosine schedule.
    - `shape`: how it falls.
    """
    fall = {"linear": linear, "cosine": cosine}[shape]
    return linear(step + 1, warmup + 1) * fall(steps - step, decay * steps)
