#!/bin/sh
# Servers that know their clients by certificates, or by the PROXY protocol, as guarded.conf has them. What they prove and believe is
# made in $SCRATCH/guarded: ca.pem has signed server.pem, which is for NAME.example.com and spiffe://example.com/NAME, and keeps
# two lists, without it (none.crl) and with it (revoked.crl); who-can.pem has signed the clients alpha and beta, and nobody
# the client stranger. Knows nothing of any mesh.
#
# usage: guarded.sh NAME
set -eu
name=$1
rm -rf "$SCRATCH/guarded"
mkdir "$SCRATCH/guarded"
cp ../programs/guarded.conf "$SCRATCH/guarded"
cd "$SCRATCH/guarded"
key="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
# $1 signs for $2, with $3 in the certificate.
signed() {
    openssl req $key -subj "/CN=$2" -keyout "$2.key" -out "$2.csr"
    printf 'basicConstraints=CA:FALSE\n%s\n' "$3" >"$2.ext"
    openssl x509 -req -in "$2.csr" -CA "$1.pem" -CAkey "$1.key" -CAcreateserial -days 1 -extfile "$2.ext" -out "$2.pem"
}
for authority in ca who-can; do
    openssl req -x509 $key -days 1 -subj "/CN=$authority of $name" -keyout $authority.key -out $authority.pem
done
signed ca server "subjectAltName=DNS:$name.example.com,URI:spiffe://example.com/$name"
signed who-can alpha extendedKeyUsage=clientAuth
signed who-can beta extendedKeyUsage=clientAuth
openssl req -x509 $key -days 1 -subj /CN=stranger -keyout stranger.key -out stranger.pem
cat >lists.cnf <<END
[ca]
default_ca = lists
[lists]
database = index
crlnumber = number
certificate = ca.pem
private_key = ca.key
default_md = sha256
default_crl_days = 1
END
: >index
echo 01 >number
openssl ca -config lists.cnf -gencrl -out none.crl
openssl ca -config lists.cnf -revoke server.pem
openssl ca -config lists.cnf -gencrl -out revoked.crl
exec nginx -p "$SCRATCH/guarded" -c "$SCRATCH/guarded/guarded.conf"
