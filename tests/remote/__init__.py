"""Tests of the commands that ask the operator's door."""
