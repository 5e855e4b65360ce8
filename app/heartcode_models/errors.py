"""What is said when a model cannot be had."""


class ModelError(Exception):
    """Something that the person who asked can change; its text says what and how."""


class SourceError(ModelError):
    """One source cannot give the file; another may."""
