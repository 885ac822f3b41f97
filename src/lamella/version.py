"""The package version, alone in its file so that every floor (and the build) can read it without loading anything."""

__version__ = "0.1.0"
