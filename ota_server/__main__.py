"""`python -m ota_server` runs the server in the foreground, as the command `ota-server` does."""

from ota_server.cli import main

if __name__ == "__main__":
    main()
