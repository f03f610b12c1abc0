#!/bin/sh
# Publishes files by curl alone: curl-publish.sh lamp-1.2.3.bin [CHANNEL/]
# OTA_SERVER_URL and OTA_SERVER_TOKEN name the server. The token comes by a pipe, so that it isn't among the arguments.
set -eu

printf 'Authorization: Bearer %s\n' "$OTA_SERVER_TOKEN" |
    curl --silent --show-error --fail-with-body --max-time 300 --header @- \
        --upload-file "${1:?name a file}" "$OTA_SERVER_URL/upload/${2:-}"
