"""Measures the service against a bare handler that answers the same rows: `python -m benchmarks`. docs/performance.md says what and why."""
