"""What the planner says when it cannot plan."""


class PlanError(Exception):
    """Something that the person who asked can change; its text says what and how."""
