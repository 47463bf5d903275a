"""How fast, against what, and how near to the limit: `python -m benchmarks --help`; the contract is in README.md."""
