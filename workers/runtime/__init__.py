"""Basics of every process: settings, logs, an event loop, clocks, retries, traces, counters, failpoints."""
