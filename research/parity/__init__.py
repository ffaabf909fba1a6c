"""Parity with the published PyTorch programs, number by number."""
