"""The sample project is a user's, and is run as one: from a copy, with the wheel (test_sample_project.py)."""

collect_ignore = ["sample_project"]
