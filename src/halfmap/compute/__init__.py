"""Where and how work runs: devices, threads, memory, batches, executors, progress."""
