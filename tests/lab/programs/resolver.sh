#!/bin/sh
# A pod's own resolver, which knows nothing of any Service.
#
# usage: resolver.sh ADDRESS
#
# who.test has ADDRESS, big.test more text than fits a datagram, and one name of the cluster's domain is an alias that
# the cluster's DNS would know. Each query is logged with the address that asked.
word=$(printf '%0200d' 0)
exec dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --pid-file= \
    --no-resolv --no-hosts --log-queries --log-facility=- \
    --local=/test/ --local=/cluster.local/ --local=/arpa/ \
    --host-record="who.test,$1" \
    --host-record="alias.shop.svc.cluster.local,192.0.2.77" \
    --txt-record="big.test,$word,$word,$word,$word,$word,$word"
