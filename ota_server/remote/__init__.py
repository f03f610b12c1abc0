"""The commands that ask the operator's door: over the network, or that of the server on the same machine."""
