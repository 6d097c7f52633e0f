"""Local servers and the supervisor behind `make run`."""
