"""What every process has: settings, logs, an event loop, clocks, retries, traces, counters, failpoints."""
