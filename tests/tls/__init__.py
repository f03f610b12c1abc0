"""Tests of TLS at the device door."""
