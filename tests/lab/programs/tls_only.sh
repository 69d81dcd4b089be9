#!/bin/sh
# An nginx on port 8443 that speaks TLS and nothing else. An authority of its own, $SCRATCH/ca.pem, has signed its
# certificate, which is for NAME.example.com and spiffe://example.com/NAME. Knows nothing of any mesh.
#
# usage: tls_only.sh NAME VERSION...
set -eu
cp ../programs/tls_only.conf "$SCRATCH"
name=$1
shift
cd "$SCRATCH"
echo "ssl_protocols $*;" >protocols.conf
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj "/CN=authority of $name" \
    -keyout ca.key -out ca.pem 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" \
    -keyout server.key -out server.csr 2>/dev/null
printf 'basicConstraints=CA:FALSE\nsubjectAltName=DNS:%s.example.com,URI:spiffe://example.com/%s\n' "$name" "$name" >server.ext
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 1 -extfile server.ext \
    -out server.pem 2>/dev/null
exec nginx -p "$SCRATCH" -c "$SCRATCH/tls_only.conf"
