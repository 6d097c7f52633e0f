"""The tests. What the caller's shell says of the service is not for them, and `app.main` reads it as soon as it is imported: so it goes first."""

import sys

from deploy.local.environment import forget_settings

# A process that a test has started, as `python -m tests.jobs.quick_worker`, was given its settings by the test.
if "pytest" in sys.modules:
    forget_settings()
