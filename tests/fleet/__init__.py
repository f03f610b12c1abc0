"""Tests of `ota_server.fleet`."""
