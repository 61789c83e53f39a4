"""Prints on import, at registration and when built: from Python, C, a subprocess and a thread."""

import ctypes
import os
import subprocess
import sys
import threading

from core import TokenPruner, hookimpl


def shout(place):
    line = f"NOISE at {place}\n"
    print(line, end="")
    sys.__stdout__.write(line)
    os.write(1, line.encode())
    ctypes.CDLL(None).puts(line.encode())  # stays in a buffer of C until the process ends
    subprocess.run(["echo", line], check=True)
    thread = threading.Thread(target=os.write, args=(1, line.encode()))
    thread.start()
    thread.join()


shout("import")


class Noisy(TokenPruner):
    def __init__(self):
        super().__init__()
        shout("construction")

    def forward(self, tokens, guide, cues):
        return tokens


@hookimpl
def register(add):
    shout("registration")
    add("noisy", Noisy)
