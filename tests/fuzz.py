"""Run property tests for some minutes, with other examples in every round, until one fails.

python tests/fuzz.py tests/optimizing/test_drawn_programs.py --minutes 10
"""

import argparse
import os
import subprocess
import sys
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="+", help="files of tests, or whatever else pytest takes")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6, help="of the first round; printed")
    arguments = parser.parse_args()
    end, rounds = time.monotonic() + 60 * arguments.minutes, 0
    while time.monotonic() < end:
        seed = arguments.seed + rounds
        print(f"seed {seed}", flush=True)
        command = [sys.executable, "-m", "pytest", f"--hypothesis-seed={seed}", *arguments.tests]
        code = subprocess.run(command, env={**os.environ, "HYPOTHESIS_PROFILE": "fuzz"}).returncode
        if code:
            raise SystemExit(code)
        rounds += 1
    print(f"{rounds} rounds, and nothing was found")


if __name__ == "__main__":
    main()
