"""The playground's sample: made-up readings in the form of ETTh1, so that no data set's licence is touched.

`python -m tests.service.sample_series` writes it anew.
"""

import math
import random
from datetime import datetime, timedelta

from service.routes.playground import FILES

PATH = FILES / "sample.csv"
HEAD = "date,HUFL,HULL,MUFL,MULL,LUFL,LULL,OT"
START = datetime(2026, 3, 2)  # noqa: DTZ001 - a file of readings has no zone
HOURS = 15 * 24


def make():
    """Two weeks and a day of hourly rows: three loads with daily and weekly rhythms, and an oil that follows them."""
    chance = random.Random(7)
    rows, oil, weather = [HEAD], 15.0, 0.0
    for hour in range(HOURS):
        time = START + timedelta(hours=hour)
        day = math.sin((time.hour - 9) / 24 * 2 * math.pi)
        evening = math.exp(-(((time.hour - 19) / 3) ** 2))
        week = 0.8 if time.weekday() >= 5 else 1.0
        weather = 0.985 * weather + chance.gauss(0, 0.22)
        high = week * (9 + 2.5 * day + 4 * evening) + chance.gauss(0, 0.6)
        low = week * (3.2 + 0.4 * day + 0.9 * evening) + chance.gauss(0, 0.15)
        warmth = 15 + 3.6 * math.sin((time.hour - 10) / 24 * 2 * math.pi) + 1.6 * weather + 0.15 * (high - 10)
        oil += 0.35 * (warmth - oil) + chance.gauss(0, 0.15)
        row = (high, 0.3 * high + chance.gauss(0, 0.2), high - low, 0.2 * (high - low) + chance.gauss(0, 0.15))
        row += (low, 0.3 * low + chance.gauss(0, 0.05), oil)
        rows.append(",".join([time.strftime("%Y-%m-%d %H:%M:%S"), *(f"{cell:.3f}" for cell in row)]))
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    PATH.write_text(make(), "utf-8", newline="\n")
