"""Tests of the device door: requests in, bytes out."""
