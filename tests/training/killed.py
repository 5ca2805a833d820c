"""python killed.py MODE NUMBER ARGUMENTS...: fastgan with these arguments, which sends itself a signal.

half NUMBER      SIGKILL when half of the bytes of the file that is written as the NUMBERth are written
fsync NUMBER     SIGKILL at the NUMBERth os.fsync, which sees a file or its name to the disk
replace NUMBER   SIGKILL at the NUMBERth os.replace, which gives a file its name
KILL NUMBER      SIGKILL up to 20 ms, at random, after the NUMBERth step has begun
TERM NUMBER      SIGTERM likewise

With NUMBER 0 it is left alone. The path that was being written is appended to killed.log.
"""

import os
import random
import signal
import sys
import threading
from pathlib import Path


def main(mode: str, number: int, arguments: list[str]) -> None:
    counted = 0

    def reached(path: object) -> bool:
        nonlocal counted
        counted += 1
        if counted == number:
            with open("killed.log", "a") as log:
                log.write(f"{mode} {path}\n")
        return counted == number

    def end(number: int = signal.SIGKILL) -> None:
        os.kill(os.getpid(), number)

    write_bytes, fsync, replace = Path.write_bytes, os.fsync, os.replace

    def half(path, data):
        if reached(path):
            write_bytes(path, data[: len(data) // 2])
            end()
        return write_bytes(path, data)

    def at_fsync(descriptor):
        if reached(os.readlink(f"/proc/self/fd/{descriptor}")):
            end()
        fsync(descriptor)

    def at_replace(source, target):
        if reached(source):
            end()
        replace(source, target)

    if mode == "half":
        Path.write_bytes = half
    elif mode == "fsync":
        os.fsync = at_fsync
    elif mode == "replace":
        os.replace = at_replace
    else:
        from fastgan.training import AdversarialStep

        step = AdversarialStep.__call__

        def at_step(self, *inputs):
            if reached("a step"):
                moment = random.SystemRandom().uniform(0, 0.02)  # the global generator is a part of the run
                threading.Timer(moment, end, [signal.Signals[f"SIG{mode}"]]).start()
            return step(self, *inputs)

        AdversarialStep.__call__ = at_step
    from fastgan import cli

    cli.main(arguments)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
