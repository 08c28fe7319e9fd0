# Runs in a guest whose kernel has IPVS, as root: records which real servers keepalived has in its
# pool, and when it tells of the quorum, over sequences of failures and returns.
#
# The guest has dummy, ip_vs and ip_vs_wrr loaded, busybox's applets in /bin and /usr/sbin/ipvsadm;
# this folder is at /ov, with keepalived as /ov/keepalived and the libraries it needs in /ov/lib.
# The lines between QUORUM-BEGIN and QUORUM-END are tests/vectors/keepalived/quorum.txt below its
# head. QUORUM_LOG=1 also prints keepalived's own log of each case, to see the order of its actions.
export LD_LIBRARY_PATH=/ov/lib
D=/tmp/quorum
mkdir -p $D/up /run /etc
[ -f /etc/passwd ] || { echo 'root:x:0:0:root:/:/bin/sh' > /etc/passwd; echo 'root:x:0:' > /etc/group; }
/usr/sbin/ip link add dum0 type dummy 2>/dev/null
/usr/sbin/ip link set dum0 up
/usr/sbin/ip addr add 192.168.1.1/24 dev dum0
/usr/sbin/ip addr add 10.0.0.100/32 dev dum0
echo 1 > /proc/sys/net/ipv4/ip_forward

# Without it, keepalived's messages would go to the console, among our lines.
syslogd -O /dev/null

# notify SUBJECT STATE: what keepalived's scripts do.
cat > $D/notify <<'N'
#!/bin/sh
echo "$2" >> /tmp/quorum/told.$1
N
chmod +x $D/notify

# conf QUORUM HYSTERESIS WEIGHTS FLAGS...; flags: sorry, inhibit, alpha.
conf() {
  quorum=$1 hysteresis=$2 weights=$3; shift 3
  sorry= inhibit= alpha=
  for flag in "$@"; do eval "$flag=1"; done
  echo "global_defs {
  script_user root
  checker_log_all_failures true
}
virtual_server 10.0.0.100 80 {
  delay_loop 1
  lvs_sched wrr
  lvs_method DR
  protocol TCP
  quorum $quorum
  hysteresis $hysteresis
  quorum_up \"$D/notify quorum up\"
  quorum_down \"$D/notify quorum down\"
  ${alpha:+alpha}
  ${inhibit:+inhibit_on_failure}
  ${sorry:+sorry_server 192.168.1.99 80}"
  n=0
  for weight in $(echo $weights | tr , ' '); do
    n=$((n+1))
    echo "  real_server 192.168.1.1$n 80 {
    weight $weight
    notify_up \"$D/notify $n up\"
    notify_down \"$D/notify $n down\"
    MISC_CHECK { misc_path \"/bin/test -e $D/up/$n\"
      misc_timeout 10
      warmup 0 }
  }"
  done
  echo "}"
}

# The pool as IPVS has it: `server:weight`, the sorry server as `s`; `-` when it is empty.
pool() {
  found=$(rows)
  echo "${found:--}"
}
rows() {
  /usr/sbin/ipvsadm -Ln | awk '$1 == "->" && $2 != "RemoteAddress:Port" {
    split($2, end, ":"); name = substr(end[1], 12)
    print (name == "9" ? "s" : name) ":" $4 }' | sort | tr '\n' ' ' | sed 's/ $//'
}

# Waits until the pool and what was told stand still.
settle() {
  same=0 last=
  while [ $same -lt 4 ]; do
    sleep 0.4
    now="$(pool)|$(cat $D/told.* 2>/dev/null | wc -l)"
    [ "$now" = "$last" ] && same=$((same+1)) || same=0
    last=$now
  done
}

# Waits until keepalived has told that a server is `$2`; says so when it does not.
told() {
  tries=0
  until [ "$(tail -n 1 $D/told.$1 2>/dev/null)" = "$2" ]; do
    tries=$((tries+1))
    [ $tries -gt 100 ] && { echo "  # server $1 was not told to be $2"; return; }
    sleep 0.2
  done
}

# One line: what happened, the pool, and what was told of the quorum meanwhile.
line() {
  settle
  quorum_told=$(tail -n +$((heard+1)) $D/told.quorum 2>/dev/null | tr '\n' ' ' | sed 's/ $//')
  heard=$(cat $D/told.quorum 2>/dev/null | wc -l)
  echo "$1 -> $(pool)${quorum_told:+ ; $quorum_told}"
}

# case NAME QUORUM HYSTERESIS WEIGHTS START STEPS FLAGS...: START are the servers that are up.
run_case() {
  name=$1 quorum=$2 hysteresis=$3 weights=$4 start=$5 steps=$6; shift 6
  rm -f $D/up/* $D/told.* $D/log
  for n in $(echo $start | tr , ' '); do [ $n = none ] || touch $D/up/$n; done
  conf $quorum $hysteresis $weights "$@" > $D/conf
  echo "case $name: quorum $quorum, hysteresis $hysteresis, weights $weights${*:+, $*}"
  heard=0
  /ov/lib/ld-linux-x86-64.so.2 /ov/keepalived -n -l -D -C -f $D/conf -p $D/pid -c $D/pid.c > $D/log 2>&1 &
  pid=$!
  # Every checker has run: its log names each that fails, and each is run once a second.
  sleep 5
  for n in 1 2 3 4; do [ -e $D/up/$n ] || told $n down; done
  line "start $start"
  for step in $steps; do
    if [ $step = toggle ]; then
      seed=$(( (seed * 1103515245 + 12345) % 2147483648 ))
      n=$(( (seed / 65536) % 4 + 1 ))
    else
      n=$step
    fi
    if [ -e $D/up/$n ]; then rm $D/up/$n; told $n down; line "fail $n"
    else touch $D/up/$n; told $n up; line "return $n"; fi
  done
  kill $pid; wait $pid
  sleep 1
  quorum_told=$(tail -n +$((heard+1)) $D/told.quorum 2>/dev/null | tr '\n' ' ' | sed 's/ $//')
  echo "stop -> $(pool)${quorum_told:+ ; $quorum_told}"
  [ -n "$QUORUM_LOG" ] && sed 's/^/  # /' $D/log
  /usr/sbin/ipvsadm -C
}

seed=5
t6="toggle toggle toggle toggle toggle toggle"
t30="$t6 $t6 $t6 $t6 $t6"
echo "QUORUM-BEGIN $(uname -r) $(/ov/lib/ld-linux-x86-64.so.2 /ov/keepalived --version 2>&1 | head -n 1)"
run_case sorry-server 4 1 1,2,3,1 1,2,3,4 "1 2 3 4 4 3 2 1 $t30" sorry
run_case no-sorry-server 4 1 1,2,3,1 1,2,3,4 "1 2 3 4 4 3 2 1 $t30"
run_case inhibited 4 1 1,2,3,1 1,2,3,4 "1 2 3 4 4 3 2 1 $t30" inhibit
run_case inhibited-sorry-server 4 1 1,2,3,1 1,2,3,4 "1 2 3 4 4 3 2 1 $t30" sorry inhibit
run_case defaults 1 0 1,1,1,1 1,2,3,4 "1 2 3 4 4 3 2 1 $t6"
run_case defaults-sorry-server 1 0 1,1,1,1 1,2,3,4 "1 2 3 4 4 3 2 1 $t6" sorry
run_case down-at-start 4 1 1,2,3,1 none "1 2 3 4 $t6"
run_case down-at-start-sorry-server 4 1 1,2,3,1 none "1 2 3 4 $t6" sorry
run_case down-at-start-inhibited 4 1 1,2,3,1 none "1 2 3 4 $t6" sorry inhibit
run_case between-at-start 4 1 1,2,3,1 1,3 "2 2 3" sorry
run_case alpha 4 1 1,2,3,1 1,2,3,4 "1 2 3 4 4 3" sorry alpha
run_case weight-of-nothing 4 0 0,2,3,1 1,2,3,4 "1 2 4 4 1 3 2 3 2" sorry
run_case wide-hysteresis 3 2 1,2,3,1 1,2,3,4 "3 2 1 4 4 1 2 3 $t6" sorry
run_case quorum-above-all-weights 9 0 1,2,3,1 1,2,3,4 "1 1 2 3 2 3" sorry
run_case hysteresis-above-quorum 4 5 1,2,3,1 1,2,3,4 "1 2 4 3 3 4 2 1" sorry
run_case hysteresis-above-all-weights 6 3 1,2,3,1 1,2,3,4 "1 2 4 3 3 4 2 1" sorry
echo QUORUM-END
