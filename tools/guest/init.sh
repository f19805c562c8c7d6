#!/bin/busybox sh
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# All of the test guest's user space: the first process, the script udhcpc
# calls, and the one that hears of hot-plugged NICs.  It exists so that a test
# has a real guest, with a real DHCP client and resolver, seconds after start.
#
# Words on the kernel command line:
#   tapster.hostname=NAME   the guest's name, also told to the DHCP server
#   tapster.net=dhcp        links up, DHCP for ever, SLAAC (the default)
#   tapster.net=up          links up, SLAAC, no DHCP
#   tapster.net=none        NICs stay down
#   tapster.probe           power off at once: shows that the machine runs
#
# The agent speaks over a virtio port, which is no terminal: nothing echoes,
# nothing is translated, and the kernel does not write there.
#   host:  ID SECONDS BASE64-OF-COMMAND
#   guest: (an empty line) "begin ID", base64 lines, "end ID STATUS LATE"
# LATE is 1 where the command was killed because its seconds were over.

export PATH=/bin HOME=/root
run=/run/tapster

# --- udhcpc's script: $1 says what happened, the lease is in the environment

lease() {
    case $1 in
    deconfig)
        ip -4 addr flush dev "$interface"
        ip link set "$interface" up
        rm -f "$run/resolv/$interface"
        ;;
    bound | renew)
        ip addr replace "$ip/$mask" ${broadcast:+broadcast "$broadcast"} \
            dev "$interface"
        [ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
        while ip route del default dev "$interface" 2>/dev/null; do :; done
        read -r index <"/sys/class/net/$interface/ifindex"
        for gateway in $router; do
            ip route add default via "$gateway" dev "$interface" metric "$index"
        done
        {
            [ -z "$search$domain" ] || echo "search ${search:-$domain}"
            for server in $dns; do echo "nameserver $server"; done
        } >"$run/resolv/$interface"
        [ -z "$hostname" ] || [ -e "$run/named" ] || hostname "$hostname"
        ;;
    esac
    write_resolv_conf
}

write_resolv_conf() {
    cat "$run"/resolv/* >/etc/resolv.conf.$$ 2>/dev/null
    mv /etc/resolv.conf.$$ /etc/resolv.conf
}

# --- NICs, those of the start and those plugged in later

nic_up() {
    # mkdir: whoever sees the NIC first configures it, once
    mkdir "$run/nic/$1" 2>/dev/null || return 0
    read -r net <"$run/net"
    [ "$net" != none ] || return 0
    ip link set "$1" up
    [ "$net" = dhcp ] || return 0
    udhcpc -f -i "$1" -p "$run/nic/$1/pid" -s /etc/udhcpc/default.script \
        -t 4 -T 1 -A 1 -O search -O mtu -x "hostname:$(hostname)" \
        >"$run/nic/$1/log" 2>&1 </dev/null &
}

nic_gone() {
    if [ -e "$run/nic/$1/pid" ]; then
        read -r pid <"$run/nic/$1/pid"
        kill "$pid"
    fi
    rm -rf "$run/nic/$1" "$run/resolv/$1"
    write_resolv_conf
}

uevent_seen() {
    [ "$SUBSYSTEM" = net ] || return 0
    case $ACTION:$INTERFACE in
    *:lo) ;;
    add:*) nic_up "$INTERFACE" ;;
    remove:*) nic_gone "$INTERFACE" ;;
    esac
}

# --- the agent

agent_port() {
    tries=0
    while [ $tries -lt 500 ]; do
        for port in /sys/class/virtio-ports/*; do
            [ -e "$port/name" ] || continue
            read -r name <"$port/name"
            [ "$name" != tapster.agent ] || return 0
        done
        usleep 20000
        tries=$((tries + 1))
    done
    echo "tapster: no virtio port named tapster.agent; powering off"
    poweroff -f
}

answer() { # ID STATUS LATE
    echo
    echo "begin $1"
    base64 "$run/agent/output.$1"
    echo "end $1 $2 $3"
}

serve() { # ID SECONDS BASE64
    file=$run/agent/command.$1
    base64 -d <<COMMAND >"$file"
$3
COMMAND
    {
        # a session of its own, so that all of it can be killed
        setsid sh -c "echo \$\$ >$run/agent/pid; . $file" \
            >"$run/agent/output.$1" 2>&1 </dev/null 3>&- 4>&-
        echo "ran $1 $?" >&4
    } &
    seconds=$2
    late=0
    until read -r -t "$seconds" what who status <&4 && [ "$what $who" = "ran $1" ]; do
        late=1
        seconds=2
        read -r pid <"$run/agent/pid" && kill -KILL "-$pid"
    done
    # Writing blocks for ever once the host is gone, so the first process
    # leaves it to a child and finds out by reading.
    { answer "$1" "$status" "$late" >&3; echo "sent $1" >&4; } &
    until read -r -t 20 what who status <&4 && [ "$what $who" = "sent $1" ]; do
        kill -KILL $! || break
    done
    rm -f "$file" "$run/agent/output.$1"
}

agent() {
    mkfifo "$run/agent/fifo"
    agent_port
    exec 3<>"/dev/${port##*/}" 4<>"$run/agent/fifo"
    lost=0
    # End of file means that the host has not opened its end yet, or that it
    # is gone for good: then nobody is left who wants this guest.
    while [ $lost -lt 100 ]; do
        if read -r id allowed command <&3; then
            lost=0
            serve "$id" "$allowed" "$command"
        else
            lost=$((lost + 1))
            usleep 20000
        fi
    done
    poweroff -f
}

# --- the first process

boot() {
    mount -t proc proc /proc
    read -r words </proc/cmdline
    net=dhcp
    for word in $words; do
        case $word in
        tapster.probe) poweroff -f ;;
        tapster.net=*) net=${word#*=} ;;
        tapster.hostname=*) named=${word#*=} ;;
        esac
    done
    mount -t sysfs sysfs /sys
    mount -t devtmpfs dev /dev
    mkdir -p "$run/nic" "$run/resolv" "$run/agent"
    echo "$net" >"$run/net"
    if [ -n "$named" ]; then
        hostname "$named"
        : >"$run/named"
    fi
    # ask for a router at once; the random second is for crowds
    echo 0 >/proc/sys/net/ipv6/conf/default/router_solicitation_delay
    ip link set lo up

    while read -r module; do
        insmod "/lib/modules/$module"
    done </lib/modules/order
    uevent /bin/on-uevent </dev/null &
    for entry in /sys/class/net/*; do
        [ "${entry##*/}" = lo ] || nic_up "${entry##*/}"
    done
    agent
}

case $0 in
*/default.script) lease "$1" ;;
*/on-uevent) uevent_seen ;;
*) boot ;;
esac
