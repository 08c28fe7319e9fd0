# Runs in a guest whose kernel has IPVS, as root: makes the interfaces ready and records.
# The guest has veth, dummy, ip_vs, ip_vs_lc and ip_vs_wlc loaded and this folder at /ov, with
# `gcc -O2 -static -o record record.c`. The lines between TRACES-BEGIN and TRACES-END are
# tests/vectors/ipvs/least.txt below its head.
# The time that traces wait for is long: a guest that skips idle time takes about a minute.
ip() { /usr/sbin/ip "$@"; }
ip link add d0 address 02:00:00:00:00:01 type veth peer name g0 address 02:00:00:00:00:02
ip link add dum0 address 02:00:00:00:00:05 type dummy
for i in all default d0 g0 dum0; do
    echo 0 > /proc/sys/net/ipv4/conf/$i/rp_filter
    echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6
done
echo 1 > /proc/sys/net/ipv4/ip_forward
for i in d0 g0 dum0; do ip link set $i up; done
ip addr add 10.0.0.1/24 dev d0
ip addr add 10.0.0.100/32 dev d0
ip addr add 192.168.1.1/24 dev dum0
for i in 11 12 13 14 15; do ip neigh add 192.168.1.$i lladdr 02:00:00:00:00:$i dev dum0 nud permanent; done
ip route add 172.16.0.0/12 via 192.168.1.11
echo "TRACES-BEGIN $(uname -r)"
/ov/record ${COUNT:-1000} ${SEED:-0x1b5}
echo TRACES-END
