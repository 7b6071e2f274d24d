"""Benchmarks: `make bench`. A ratio in one run, since machines are noisy; never a timed test."""
