"""Tests of the server by what the update clients of real devices send, and by how they judge its answers."""
