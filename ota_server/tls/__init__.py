"""TLS at the device door: certificates that are followed, sessions that are resumed, devices that prove themselves."""
