"""Measures the service against a bare handler that answers the same rows: `python -m benchmarks`. docs/performance.md says what and why.

With settings of its own, whatever the caller's shell says.
"""

from deploy.local.environment import forget_settings

forget_settings()
