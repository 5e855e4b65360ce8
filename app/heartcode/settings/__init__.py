"""Every setting of the proxy and its exporter, in one table that feeds code and documentation."""

from heartcode.settings.settings import EXIT_BAD_SETTINGS, Settings, SettingsError
from heartcode.settings.table import TABLE

__all__ = ["EXIT_BAD_SETTINGS", "TABLE", "Settings", "SettingsError"]
