#!/bin/sh
# Builds the image, makes the certificates that are missing, and starts the
# cluster. It may be run again.
set -eu
cd "$(dirname "$0")"
cert() { docker compose run --rm cert "$@"; }
docker compose build
cert show /etc/clrelay/tls/ca/ca.crt >/dev/null 2>&1 || cert create-ca --dir /etc/clrelay/tls/ca
for node in mx1 mx2 mx3; do
	cert show "/etc/clrelay/tls/$node/node.crt" >/dev/null 2>&1 ||
		cert create-node --ca-dir /etc/clrelay/tls/ca --dir "/etc/clrelay/tls/$node" --name "$node" --host "$node"
done
docker compose up --detach
docker compose ps
