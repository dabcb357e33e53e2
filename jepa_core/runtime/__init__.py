"""Where a process runs: devices, ranks, signals, memory, environment, seeds, progress."""
