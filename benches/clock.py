#!/usr/bin/env python3
"""Runs a command and prints seconds, its seconds of processor time, and its peak resident memory in MiB.

    clock.py COMMAND…
"""
import resource
import subprocess
import sys
import time

began = time.monotonic()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False)
seconds = time.monotonic() - began
used = resource.getrusage(resource.RUSAGE_CHILDREN)
if done.returncode:
    sys.exit(f"{sys.argv[1]} ended with {done.returncode}")
print(f"{seconds:.4f} {used.ru_utime + used.ru_stime:.4f} {used.ru_maxrss / 1024:.1f}")
