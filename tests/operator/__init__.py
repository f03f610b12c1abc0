"""Tests of the operator's door."""
