"""Training: strategies, precision, schedules, the optimizer, checkpoints, callbacks, the loop."""
