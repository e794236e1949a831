"""What readers made of openings, ours and those of another benchmark, who did not know which is which.

`openings.json` beside this file holds for each number where the text came from, and what each reader
said of it: R for real (a person, or a model that plays one), P for put together by a program, and
from 1 to 5 how believable it is as a customer's first message. Our texts are there as they were
judged, the others are named by their ids. `--new` prints ours as they are made today.
"""

import argparse
import json
import statistics
from pathlib import Path

from longcat_envs.history import load_setting
from longcat_envs.tasks import TaskMaker
from longcat_envs.world import builtin_worlds

SEED, PASTS = 2601, range(2)
EACH = {"shallow": 4, "deep": 4}


def our_openings():
    """Yield the name of each of our openings as they are made today, and its text."""
    for domain in builtin_worlds():
        setting = load_setting(domain)
        for difficulty, number in EACH.items():
            maker = TaskMaker(setting, seed=SEED, difficulty=difficulty, pasts=PASTS)
            for place in range(number):
                yield f"{domain} {difficulty} {place}", next(maker).opening


def kappa(one, other):
    """Return Cohen's kappa of two readers' R and P."""
    same = statistics.mean(a == b for a, b in zip(one, other, strict=True))
    rates = [sum(x == "R" for x in reader) / len(reader) for reader in (one, other)]
    chance = rates[0] * rates[1] + (1 - rates[0]) * (1 - rates[1])
    return 1.0 if chance == 1 else (same - chance) / (1 - chance)


def share(answers, numbers):
    """Return the share judged real, and the mean belief."""
    real = statistics.mean(answers[n][0] == "R" for n in numbers)
    return round(real, 3), round(statistics.mean(answers[n][1] for n in numbers), 2)


def groups_of(sources):
    """Return the numbers of each kind of text."""
    groups = {"ours": [], "ours, shallow": [], "ours, deep": [], "tau": []}
    for number, source in sources.items():
        if source["from"] != "ours":
            groups["tau"].append(number)
            continue
        groups["ours"].append(number)
        groups[f"ours, {source['id'].split()[1]}"].append(number)
    return {name: numbers for name, numbers in groups.items() if numbers}


def agreement(readers):
    """Return the range of the readers' agreement, two by two."""
    if len(readers) < 2:
        return "one reader"
    names = sorted(readers)
    pairs = [
        kappa([readers[a][n][0] for n in sorted(readers[a])],
              [readers[b][n][0] for n in sorted(readers[a])])
        for place, a in enumerate(names) for b in names[place + 1 :]
    ]  # fmt: skip
    return f"kappa {min(pairs):.2f} to {max(pairs):.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--new", action="store_true", help="print openings as made today")
    given = parser.parse_args()
    if given.new:
        for name, text in our_openings():
            print(name, text, sep="\t")
        return
    found = json.loads(Path(__file__).with_name("openings.json").read_text("utf-8"))
    groups, readers = groups_of(found["texts"]), found["readers"]
    columns = ["texts", "number", "reader", "judged real", "belief, 1 to 5"]
    rows = [
        [name, len(numbers), reader, *share(readers[reader], numbers)]
        for name, numbers in groups.items() for reader in sorted(readers)
    ]  # fmt: skip
    for line in (columns, *rows):
        print(*(f"{cell!s:>16}" for cell in line))
    means = {name: [statistics.mean(row[place] for row in rows if row[0] == name)
                    for place in (3, 4)] for name in groups}  # fmt: skip
    ours, theirs = means["ours"], means["tau"]
    print(json.dumps({
        "title": "Openings judged blind", "columns": columns, "rows": rows, "seeds": [SEED],
        "claim": f"{len(readers)} readers took {ours[0]:.0%} of our openings and {theirs[0]:.0%} of "
        f"tau's for real; how believable they are as a first message: {ours[1]:.1f} and "
        f"{theirs[1]:.1f} of 5.",
        "spread": f"per reader; they agree on real or not with {agreement(readers)}",
        "notes": found["notes"],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
