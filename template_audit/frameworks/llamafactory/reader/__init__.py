"""Reads Python source without running it: where a release lies, and a bounded evaluator of its registration code."""
