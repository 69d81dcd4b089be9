#!/bin/sh
# Debian's testssl.sh against an inbound port of the mesh, which only answers a ClientHello that offers ALPN mesh-h2.
#
# usage: testssl_mesh.sh ADDRESS:PORT      the findings are in $SCRATCH/testssl.json
#
# testssl.sh cannot be told what to offer: a copy of it offers mesh-h2 where the original offers NPN, and so does the
# openssl that the copy calls.
set -eu
cd "$SCRATCH"
rm -f testssl.json
sed 's/^\( *\)33, 74, 00, 00"$/\100, 10, 00, 0a, 00, 08, 07, 6d, 65, 73, 68, 2d, 68, 32"/' /usr/bin/testssl >testssl.copy
if cmp -s /usr/bin/testssl testssl.copy; then
    echo "testssl.sh has no NPN extension to be replaced" >&2
    exit 1
fi
cat >openssl.mesh <<'END'
#!/bin/sh
case "$1 $*" in
s_client*-alpn*) exec /usr/bin/openssl "$@" ;;
s_client*) shift && exec /usr/bin/openssl s_client -alpn mesh-h2 "$@" ;;
*) exec /usr/bin/openssl "$@" ;;
esac
END
chmod +x openssl.mesh
# Its exit code counts findings; what it found is judged by who asked.
bash ./testssl.copy --openssl ./openssl.mesh --jsonfile testssl.json --warnings off --color 0 --quiet \
    --protocols --std --fs --server-preference --server-defaults --vulnerable "$1" >testssl.log 2>&1 || true
test -s testssl.json
