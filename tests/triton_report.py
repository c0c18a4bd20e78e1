"""How a program of checks with one of Triton's clients tells what it found; run with that client's own packages."""

import json
import sys
import time
import traceback


def report(checks, client, connect):
    """Run each check on a connection to the address of the command line; print one JSON object of tracebacks or None.

    The check `asyncio` makes a client of its own. `client` is the client's module, `connect` makes one for an address.
    """
    (address,) = sys.argv[1:]
    told = {"client": client.__file__}
    for name, check in checks.items():
        began = time.perf_counter()
        try:
            if name == "asyncio":
                check(address)
            else:
                with connect(address) as connection:
                    check(connection)
            told[name] = None
        except Exception:
            told[name] = traceback.format_exc()
        print(f"{name}: {time.perf_counter() - began:.1f} s", file=sys.stderr)
    print(json.dumps(told))
