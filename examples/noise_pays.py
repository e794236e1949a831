"""Does training in noise help in noise? slow: two RL runs from one cold start, about six minutes.

    pip install longcat-cli        python noise_pays.py RUN [DOMAIN]

RUN is a finished run of `longcat train`.

Both runs share RUN's environments and cold start and differ in the noise levels alone; most
episodes of the second are noisy once the level has risen. Prints each one's held-out pass rate,
clean and noisy, and what it loses under noise.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path


def branch(run: Path, domain: str, levels: list[float]) -> Path:
    """Copy a run up to its cold start, with one expert and other noise levels."""
    out = run.with_name(f"{run.name}-{domain}-noise-{levels[-1]}")
    shutil.rmtree(out, ignore_errors=True)
    for part in ("environments", "cold_start"):
        shutil.copytree(run / part, out / part)
    (out / "stages").mkdir()
    for stage in ("grow", "cold_start"):
        shutil.copy(run / "stages" / f"{stage}.json", out / "stages")
    record = json.loads((run / "run.json").read_text())
    record["recipe"]["groups"] = {domain: [domain]}
    record["recipe"]["noise"] |= {"levels": levels, "share_clean": 0.3, "min_pass_rate": 0.2}
    record["recipe"]["fuse"]["steps"] = 0  # one expert: nothing to fuse
    (out / "run.json").write_text(json.dumps(record))
    return out


def main(run: Path, domain: str = "library") -> None:
    for name, levels in (("without noise", [0.0]), ("with noise", [0.0, 0.1, 0.2, 0.3])):
        out = branch(run, domain, levels)
        command = [sys.executable, "-m", "longcat_cli.main", "train", "--resume", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = [row for row in json.loads((out / "evaluation.json").read_text())
                if row["model"] == f"expert:{domain}"]  # fmt: skip
        rates = {row["noise"]: row["passed"] / row["total"] for row in rows}
        clean, noisy = rates[min(rates)], rates[max(rates)]
        print(
            f"{name:14} clean {clean:.2f}  noisy {noisy:.2f}  lost {clean - noisy:.2f}", flush=True
        )


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), *sys.argv[2:3])
