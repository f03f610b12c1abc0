"""Servers that are killed at random moments under load, and what must be known of that afterwards.

`nursery` is the program that runs and kills them, `lane` the load and what is seen from outside, `checker` compares
that with what is on disk.
"""
