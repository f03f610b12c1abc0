"""Makes endpoint strings `device-tls:` known, wherever Twisted takes endpoint strings.

Apart from ota_plugin.py, so that `twistd --help` doesn't import the TLS of this server.
"""

from ota_server.tls.endpoint import DeviceTlsParser

device_tls = DeviceTlsParser()
