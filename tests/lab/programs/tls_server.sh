#!/bin/sh
# A TLS server whose certificate has NAME as its common name. Knows nothing of any mesh.
#
# usage: tls_server.sh NAME PORT
set -eu
cd "$SCRATCH"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj "/CN=$1" \
    -keyout server.key -out server.pem 2>/dev/null
exec openssl s_server -accept "$2" -cert server.pem -key server.key -quiet -www
