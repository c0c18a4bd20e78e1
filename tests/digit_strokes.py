"""The ten digits as a hand draws them: strokes of points on a sheet of 280x280."""

from math import cos, pi, sin


def arc(x: float, y: float, across: float, down: float, start: float, end: float, steps: int = 14):
    """Points of an ellipse's arc around (x, y), from angle to angle in degrees; 0 is to the right, 90 is down."""
    angles = [(start + (end - start) * step / steps) * pi / 180 for step in range(steps + 1)]
    return [(x + across * cos(angle), y + down * sin(angle)) for angle in angles]


DIGITS = {
    0: [arc(140, 140, 58, 84, -90, 270)],
    1: [[(110, 90), (148, 58), (148, 222)]],
    2: [[*arc(138, 104, 54, 46, -170, 40), (88, 218), (202, 218)]],
    3: [[*arc(132, 98, 48, 40, -150, 80), *arc(132, 180, 56, 44, -80, 150)]],
    4: [[(150, 56), (84, 164), (206, 164)], [(172, 110), (172, 226)]],
    5: [[(194, 60), (106, 60), (98, 128), *arc(136, 172, 58, 50, -120, 140)]],
    6: [[(176, 56), (120, 110), *arc(140, 174, 48, 48, -160, 200)]],
    7: [[(80, 66), (202, 66), (124, 224)]],
    8: [[*arc(140, 98, 40, 40, 90, -270), *arc(140, 180, 50, 44, -90, 270)]],
    9: [[*arc(136, 104, 46, 46, 0, -360), (182, 104), (172, 224)]],
}
