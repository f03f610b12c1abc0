#!/bin/sh
# Compiles a sketch with arduino-cli, and publishes it: arduino-publish.sh SKETCH VERSION [FQBN]
# The sketch tells the server the VERSION that it is compiled with. OTA_SERVER_URL and OTA_SERVER_TOKEN name the server.
set -eu

sketch=${1:?name the folder of the sketch}
version=${2:?name the version, as 1.2.3}
board=${3:-esp8266:esp8266:d1_mini}
name=$(basename "$sketch")

arduino-cli compile --fqbn "$board" --output-dir build \
    --build-property "compiler.cpp.extra_flags=-DVERSION=\"$version\"" "$sketch"
ota-server publish --project "$name" --version "$version" "build/$name.ino.bin"
