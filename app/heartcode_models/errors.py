"""What is said when there is no model to be had, to be read or to be planned for."""


class ModelError(Exception):
    """Something that the person who asked can change; its text says what and how."""


class SourceError(ModelError):
    """One source cannot give the file; another may."""


class BusyError(ModelError):
    """Another process is bringing the same file."""
