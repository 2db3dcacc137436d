# For scripts in the bed, to be sourced: VMs of hull with consoles to talk to. One VM at a time; all go by a name, and what
# VM NAME wrote is kept in /share/NAME.log (console) and /share/NAME.err (hull itself).
HULL=/hull/bin/hull

fail() {
    echo "$*"
    for file in /tmp/*.log /tmp/*.err; do
        [ ! -s "$file" ] || { echo "-- $file:"; tail -c 2000 "$file"; }
    done
    exit 1
}

# start NAME ARGUMENTS: in the background
start() {
    vm=$1
    shift
    mkfifo "/tmp/$vm.keys"
    exec 3<>"/tmp/$vm.keys" # both ways: opening does not wait, and the VM sees no end of its input
    "$HULL" boot "$@" --control "/tmp/$vm.control" <"/tmp/$vm.keys" >"/tmp/$vm.log" 2>"/tmp/$vm.err" &
    process=$!
    tries=0
    until "$HULL" ctl "/tmp/$vm.control" status >/dev/null 2>&1; do
        kill -0 "$process" 2>/dev/null || fail "$vm did not start"
        tries=$((tries + 1))
        [ $tries -lt 900 ] || fail "$vm did not open its control socket"
        sleep 0.1
    done
}

# wait_for TEXT [COUNT]: until the console shows it, COUNT times
wait_for() {
    tries=0
    until [ "$(grep -c "$1" "/tmp/$vm.log" 2>/dev/null)" -ge "${2:-1}" ] 2>/dev/null; do
        kill -0 "$process" 2>/dev/null || fail "$vm ended before it showed '$1'"
        tries=$((tries + 1))
        [ $tries -lt 1500 ] || fail "$vm never showed '$1'"
        sleep 0.2
    done
}

say() {
    printf '%s\n' "$*" >&3
}

# finish [STATUS]: the VM ends by itself, with that status
finish() {
    wait "$process"
    status=$?
    cp "/tmp/$vm.log" "/tmp/$vm.err" /share
    [ $status = "${1:-0}" ] || fail "$vm ended with status $status"
}

# save FILE: pauses, saves and ends it
save() {
    "$HULL" ctl "/tmp/$vm.control" pause && "$HULL" ctl "/tmp/$vm.control" save "file=$1" >/dev/null 2>"/tmp/save.err" &&
        "$HULL" ctl "/tmp/$vm.control" quit || fail "saving $vm failed: $(cat /tmp/save.err)"
    wait "$process"
    cp "/tmp/$vm.log" "/tmp/$vm.err" /share
}
