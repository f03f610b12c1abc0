"""Tests of the OTA Server; the tree mirrors that of `ota_server`."""
