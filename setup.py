"""Packages of the distribution; everything else about it stands in pyproject.toml."""

from setuptools import setup

setup(
    # An explicit root makes an editable install write a plain path entry. Without it
    # setuptools installs an import hook, and twisted.plugin finds no plugin through that.
    package_dir={"": "."},
    packages=[
        "ota_server",
        "ota_server.firmware",
        "ota_server.fleet",
        "ota_server.fleet.migrations",
        "ota_server.fleet.migrations.versions",
        "ota_server.operator",
        "ota_server.remote",
        "ota_server.tls",
        "ota_server.web",
        "twisted.plugins",
    ],
    package_data={"ota_server": ["py.typed"]},
)
