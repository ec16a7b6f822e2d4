"""The machine that a command runs on: devices and threads, ranks, launching processes, memory."""
