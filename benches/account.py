#!/usr/bin/env python3
"""What a process has cost so far, by the kernel's accounting, with all its children.

    account.py cpu PID      seconds of processor time, user and system, reaped children included
    account.py peak PID     peak resident memory in MiB, summed over the living processes
"""
import os
import sys
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid):
    return sum(sum(int(field) for field in stat_fields(p)[11:15]) for p in process_tree(pid)) / TICKS_PER_S


def peak_mib(pid):
    kib = 0
    for process in process_tree(pid):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                kib += int(line.split()[1])
    return kib / 1024


def process_tree(pid):
    found, waiting = [], [pid]
    while waiting:
        process = waiting.pop()
        found.append(process)
        for task in Path(f"/proc/{process}/task").iterdir():
            waiting += [int(child) for child in (task / "children").read_text().split()]
    return found


def stat_fields(pid):
    # The second field is the program's name in parentheses and may hold spaces.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


if __name__ == "__main__":
    what, pid = sys.argv[1], int(sys.argv[2])
    print({"cpu": cpu_s, "peak": peak_mib}[what](pid))
