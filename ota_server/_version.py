"""
Provides ota_server version information.
"""

# This file is auto-generated! Do not edit!
# Use `python -m incremental.update ota_server` to change this file.

from incremental import Version

__version__ = Version("ota_server", 26, 11, 0)
__all__ = ["__version__"]
