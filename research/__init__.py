"""What proves the package: parity, published results, ablations, the saliency study, benchmarks.

It is part of a checkout, not of the installed package, and nothing in `rfd_tf` imports it.
`research/commands` has one command a file; `scripts/NAME.py` starts it.
"""
