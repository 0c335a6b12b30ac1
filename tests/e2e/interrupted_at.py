"""Runs `bitnet` and sends itself a signal at the N-th call of a Python function.

    python interrupted_at.py SIGNAL N GAP WORDS...

With GAP above 0, a second one comes GAP calls later. Where N is more than there are calls, nothing
is sent, and how many there were stands in the file that $CALLS names. Unlike a timer this meets
every moment, on a slow machine and a fast one alike.
"""

import os
import sys

number, at, gap = (int(word) for word in sys.argv[1:4])
sys.argv = ["bitnet", *sys.argv[4:]]
moments = {at, at + gap} if gap else {at}
calls = 0


def count(frame, event, argument):
    global calls
    if event in ("call", "c_call"):
        calls += 1
        if calls in moments:
            os.kill(os.getpid(), number)


from bitnet_cli import __main__ as process  # noqa: E402

sys.setprofile(count)
try:
    process.entry()
finally:
    sys.setprofile(None)
    if "CALLS" in os.environ:
        with open(os.environ["CALLS"], "w") as stream:
            stream.write(str(calls))
