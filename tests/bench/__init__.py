"""Benchmarks: what is deterministic is asserted, times and ratios are printed. ``pytest tests/bench -s``

PATCHBAY_BENCH_ROUNDS=5 takes five timed rounds of everything, and trains at 256 and 384 px too. Only then
captions and training steps are timed against open_clip, which takes half an hour on two cores.
"""
