#!/usr/bin/env python3
"""Markdown tables from records on stdin: `table <TAB> row <TAB> target <TAB> value`, one a line.

Each cell is the median of its values and, in brackets, their spread: largest less smallest, over the
median. With orlop among the targets, its ratio to each other one follows.
"""
import statistics
import sys

SUBJECT = "orlop"


def main():
    tables = {}
    for line in sys.stdin:
        table, row, target, value = line.rstrip("\n").split("\t")
        tables.setdefault(table, {}).setdefault(row, {}).setdefault(target, []).append(float(value))
    for title, rows in tables.items():
        print_table(title, rows)


def print_table(title, rows):
    targets = list(dict.fromkeys(target for row in rows.values() for target in row))
    rivals = [t for t in targets if t != SUBJECT] if SUBJECT in targets else []
    print(f"\n{title}\n")
    print("| | " + " | ".join([*targets, *(f"{SUBJECT} ÷ {rival}" for rival in rivals)]) + " |")
    print("|---|" + "---:|" * (len(targets) + len(rivals)))
    for name, row in rows.items():
        cells = [show(row.get(target)) for target in targets]
        cells += [show_ratio(row.get(SUBJECT), row.get(rival)) for rival in rivals]
        print(f"| {name} | " + " | ".join(cells) + " |")


def show(values):
    if not values:
        return "–"
    median = statistics.median(values)
    if len(values) == 1 or not median:
        return shorten(median)
    return f"{shorten(median)} ({(max(values) - min(values)) / median:.0%})"


def show_ratio(values, others):
    if not values or not others or not statistics.median(others):
        return "–"
    return f"**{statistics.median(values) / statistics.median(others):.2f}**"


def shorten(value):
    """Three digits are more than these machines can vouch for."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
