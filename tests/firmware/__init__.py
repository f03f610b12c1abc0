"""Tests of `ota_server.firmware`."""
