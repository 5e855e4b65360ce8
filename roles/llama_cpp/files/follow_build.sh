#!/bin/sh
# Waits until a build has ended or some seconds have passed, then says where it is: "[57/206]".
#   follow_build.sh LOG RESULT SECONDS
# RESULT is the file in which Ansible's async wrapper notes the end of the job.
set -u

log=$1 result=$2 left=$3
until grep -q '"rc":' "$result" 2>/dev/null || [ "$left" -le 0 ]; do
    sleep 1
    left=$((left - 1))
done
step=$(grep -o '^\[[0-9]*/[0-9]*\]' "$log" 2>/dev/null | tail -n 1)
echo "${step:-starting}"
