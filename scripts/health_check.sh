#!/usr/bin/env bash
# Says, check by check, what works at a HeartCode address: see --help.
#
# Needs no more than bash 3.2, curl, grep, sed and coreutils, so that it runs on a bare rig and on a
# laptop. JSON is only searched, never decoded: the model's name goes into the next request as it came.
set -euo pipefail

DEFAULT_URL=http://localhost:8080
DEFAULT_TIMEOUT=60
CONNECT_TIMEOUT=5
# A JSON string, quotes included. Inside another string its quotes would be escaped, so that
# what looks like a key in an answer is one.
JSON_STRING='"([^"\\]|\\.)*"'
NON_EMPTY_JSON_STRING='"([^"\\]|\\.)+"'
TEXT="\"(reasoning_)?content\" *: *$NON_EMPTY_JSON_STRING"
QUESTION='"messages":[{"role":"user","content":"Count from 1 to 20."}],"max_tokens":16'

usage() {
    cat <<USAGE
Usage: health_check.sh [--key-file FILE] [--json] [URL]

Checks one address: health, the list of models, a completion and a stream; then lists every
rig and card behind it. URL is a gateway (port 4000), a rig's proxy (8080) or a llama-server
(8081 and up, which knows of no cards); without one it is $DEFAULT_URL.

  --key-file FILE  read the API key from the first line of FILE
  --json           print rigs and cards as JSON; what is said of the checks goes to stderr
  -h, --help       show this

Environment:
  HEARTCODE_API_KEY         the API key, if no --key-file is given
  HEARTCODE_HEALTH_TIMEOUT  longest time for each check in seconds (default $DEFAULT_TIMEOUT)
  NO_COLOR                  no colours, as when the output is no terminal

Exit code: 0 all is well, 1 a check failed: it does not serve as it should, 2 the checks could
not be run (wrong arguments, unreadable key file, missing program), 3 it serves, but with less
than it has: a card or a rig is down, starting or draining.
USAGE
}

wrong_usage() {
    printf 'health_check.sh: %s\n' "$1" >&2
    printf "Try 'health_check.sh --help'.\n" >&2
    exit 2
}

# --- what the caller wants ---------------------------------------------------------------------

require_programs() {
    local program
    for program in curl grep sed tr mktemp; do
        command -v "$program" >/dev/null ||
            wrong_usage "$program is not installed: apt-get install curl grep sed coreutils"
    done
}

parse_arguments() {
    url='' key_file='' json=''
    while [[ $# -gt 0 ]]; do
        case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --key-file)
            [[ $# -ge 2 ]] || wrong_usage "--key-file needs a file name"
            key_file=$2
            shift
            ;;
        --key-file=*) key_file=${1#*=} ;;
        --json) json=yes ;;
        -*) wrong_usage "unknown option: $1" ;;
        *)
            [[ -z $url ]] || wrong_usage "one URL only, not also: $1"
            [[ -n $1 ]] || wrong_usage "the URL is empty"
            url=$1
            ;;
        esac
        shift
    done
    set_base_url "${url:-$DEFAULT_URL}"
    set_timeout "${HEARTCODE_HEALTH_TIMEOUT:-$DEFAULT_TIMEOUT}"
    set_key
}

# OpenAI clients are given the address with /v1, people paste it here.
set_base_url() {
    url=$1
    [[ $url =~ ^https?://[^/?#@[:space:]]+(/[^?#[:space:]]*)?$ ]] ||
        wrong_usage "not a URL: $url (write it like $DEFAULT_URL)"
    url=${url%/}
    url=${url%/v1}
}

set_timeout() {
    timeout=$1
    [[ $timeout =~ ^[1-9][0-9]{0,4}$ ]] ||
        wrong_usage "HEARTCODE_HEALTH_TIMEOUT must be whole seconds, 1 or more, not: $timeout"
}

set_key() {
    key=${HEARTCODE_API_KEY:-}
    if [[ -n $key_file ]]; then
        [[ -r $key_file && ! -d $key_file ]] || wrong_usage "cannot read key file: $key_file"
        key=''
        IFS=$' \t\r' read -r key <"$key_file" || true
        [[ -n $key ]] || wrong_usage "no key in the first line of: $key_file"
    fi
    # The message does not show the key.
    [[ $key != *[[:cntrl:]]* ]] || wrong_usage "the API key contains a control character"
}

# --- output --------------------------------------------------------------------------------------

set_colours() {
    green='' yellow='' red='' plain=''
    if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
        green=$'\033[32m' yellow=$'\033[33m' red=$'\033[31m' plain=$'\033[0m'
    fi
}

# What a server sent must not steer the terminal, nor fill it.
printable() {
    local text=${1//[[:cntrl:]]/ }
    if [[ ${#text} -gt 200 ]]; then
        text="${text:0:200}..."
    fi
    printf '%s' "$text"
}

pass() {
    printf '%sok%s    %-11s %s\n' "$green" "$plain" "$check" "$(printable "$1")"
}

# warn REASON WHAT TO DO
warn() {
    degraded=yes
    printf '%swarn%s  %-11s %s\n' "$yellow" "$plain" "$check" "$(printable "$1")"
    printf '%18s%s\n' '' "$2"
}

# fail REASON [WHAT TO DO]
fail() {
    failed=$((failed + 1))
    printf '%sFAIL%s  %-11s %s\n' "$red" "$plain" "$check" "$(printable "$1")"
    [[ -z ${2:-} ]] || printf '%18s%s\n' '' "$2"
}

# --- asking --------------------------------------------------------------------------------------

# The options that must not be seen in `ps`, in the syntax of curl's configuration file.
curl_secrets() {
    local escaped=${key//\\/\\\\}
    escaped=${escaped//\"/\\\"}
    [[ -z $key ]] || printf 'header = "Authorization: Bearer %s"\n' "$escaped"
}

# request PATH [JSON BODY]: sets curl_exit, status, content_type, redirect, seconds, first_byte and
# fills the file $body. Without --disable, a --location in ~/.curlrc would change what is checked.
request() {
    local path=$1
    local options=(--disable --globoff --silent --show-error --connect-timeout "$CONNECT_TIMEOUT"
        --max-time "$timeout" --output "$body"
        --write-out '%{http_code}\n%{content_type}\n%{redirect_url}\n%{time_total}\n%{time_starttransfer}\n')
    if [[ $# -gt 1 ]]; then
        options+=(--header 'Content-Type: application/json' --data "$2")
    fi
    : >"$body"
    curl_exit=0
    curl "${options[@]}" --config <(curl_secrets) -- "$url$path" \
        >"$directory/summary" 2>"$directory/stderr" || curl_exit=$?
    {
        read -r status
        read -r content_type
        read -r redirect
        read -r seconds
        read -r first_byte
    } <"$directory/summary" || true
    # The ends of SSE lines differ; a NUL would make grep take the file for binary.
    tr -d '\r\000' <"$body" >"$body.clean"
}

# Bytes, not characters: an answer may be cut inside of one.
search() {
    LC_ALL=C grep -E "$@" "$body.clean"
}

# json_value KEY: the first string of that key, in its quotes, still escaped.
json_value() {
    search -o "\"$1\" *: *$JSON_STRING" | LC_ALL=C sed -E -n "1s/^\"$1\" *: *//p" || true
}

# --- what can be wrong ---------------------------------------------------------------------------

host_and_port() {
    local authority=${url#*://}
    authority=${authority%%/*}
    if [[ $authority =~ :[0-9]+$ ]]; then
        printf '%s' "$authority"
    elif [[ $url == https:* ]]; then
        printf '%s:443' "$authority"
    else
        printf '%s:80' "$authority"
    fi
}

# The unit that serves this port, by the default ports.
unit() {
    local port
    port=$(host_and_port)
    port=${port##*:}
    case $port in
    80 | 443 | 4000) printf nginx ;;
    808[1-9] | 809[0-2]) printf 'heartcode-llama@%d' $((port - 8081)) ;;
    *) printf heartcode ;;
    esac
}

# No answer, or only a part of one.
fail_connection() {
    case $curl_exit in
    6) fail "cannot resolve the host name" "Is it spelled right? Does DNS or /etc/hosts know it?" ;;
    7)
        fail "connection refused, or no way to $(host_and_port)" \
            "Is $(unit) running? On that host: systemctl status $(unit). A firewall in between?"
        ;;
    28)
        if [[ $status = 000 ]]; then
            fail "no answer within the time limit" \
                "Is the host up, or $(unit) busy or hung? On that host: journalctl -u $(unit) -n 50"
        else
            fail "not complete after $timeout s" \
                "Slow or hung? Try with HEARTCODE_HEALTH_TIMEOUT=$((timeout * 4)). On that host: journalctl -u $(unit) -n 50"
        fi
        ;;
    35 | 51 | 58 | 60 | 77) fail "TLS: $(sed -n 1p "$directory/stderr")" \
        "Is it http:// instead? Is the certificate for this name? For your own CA: CURL_CA_BUNDLE=ca.pem" ;;
    18 | 52 | 56 | 92) fail "the connection was cut in the middle of an answer" \
        "Did $(unit) crash or restart? On that host: journalctl -u $(unit) -n 50" ;;
    *) fail "$(sed -n 1p "$directory/stderr")" ;;
    esac
}

fail_status() {
    local message
    message=$(json_value message)
    fail "HTTP $status${message:+: $message}" "$(advice_for_status)"
}

advice_for_status() {
    case $status in
    3??) printf 'It redirects%s: use the URL it redirects to.' "${redirect:+ to $(printable "$redirect")}" ;;
    401 | 403)
        if [[ -n $key ]]; then
            printf 'The API key was not accepted: is it the right one for this address?'
        else
            printf 'No API key was sent: set HEARTCODE_API_KEY or use --key-file.'
        fi
        ;;
    404) printf 'Is this the base address (without a path) of a gateway, rig or llama-server?' ;;
    429) printf 'The queue is full: wait, or look at active_requests on the rigs.' ;;
    502) printf 'The gateway reached no rig. On the rigs: systemctl status heartcode' ;;
    503) printf 'Loading a model, draining, or no GPU works. On the rig: systemctl status heartcode "heartcode-llama@*"' ;;
    504) printf 'It waited too long for a free slot or a rig: too many requests, or a GPU hangs.' ;;
    *) printf 'On that host: journalctl -u %s -n 50' "$(unit)" ;;
    esac
}

# True if there is an answer with status 200 that is no web page; else says why not.
answered() {
    if [[ $curl_exit -ne 0 ]]; then
        fail_connection
    elif [[ $status != 200 ]]; then
        fail_status
    elif [[ $content_type == text/html* ]]; then
        fail "the answer is a web page (HTML)" \
            "Another server is at $url: is the port right (gateway 4000, rig 8080)?"
    else
        return 0
    fi
    return 1
}

# --- the checks ----------------------------------------------------------------------------------

check_health() {
    request /health
    answered || return 0
    pass "HTTP 200 in $seconds s"
}

check_models() {
    local count
    request /v1/models
    answered || return 0
    model=$(json_value id)
    if [[ -z $model ]]; then
        fail "the list holds no model" "Is MODEL_PATH set and the model loaded? On the rig: systemctl status heartcode-llama@0"
        return 0
    fi
    count=$(search -o "\"id\" *: *$JSON_STRING" | grep -c .)
    pass "$count listed, the first is $model"
}

check_completion() {
    request /v1/chat/completions "$(question false)"
    answered || return 0
    if search -q "$TEXT"; then
        pass "$(json_value content) in $seconds s"
    else
        fail "the answer holds no text" "Does the model load and answer? On the rig: journalctl -u heartcode-llama@0 -n 50"
    fi
}

check_stream() {
    local events
    request /v1/chat/completions "$(question true)"
    # A cut stream has sent its status and a part of its events: say what they tell.
    if [[ $status = 200 && $curl_exit =~ ^(18|56|92)$ ]]; then
        curl_exit=0
    fi
    answered || return 0
    events=$(search -c "^data:.*$TEXT" || true)
    if [[ $content_type != text/event-stream* ]]; then
        fail "the content type is ${content_type:-missing}, not text/event-stream" \
            "Does something in between rewrite answers, or not pass \"stream\" on?"
    elif search -q '^data:.*[{,] *"error" *: *[{"]'; then
        fail "an error in the stream: $(json_value message)" "On that host: journalctl -u $(unit) -n 50"
    elif ! search -q '^data: *\[DONE\]'; then
        fail "ended without [DONE] after $events events" \
            "Something cut it: a restart, a lost GPU, a timeout in between? On that host: journalctl -u $(unit) -n 50"
    elif [[ $events -lt 2 ]]; then
        fail "text in only $events event, where several were asked for" \
            "Does something in between collect the events (proxy_buffering)?"
    else
        pass "$events events in $seconds s, the first byte after $first_byte s, then [DONE]"
    fi
}

# A llama-server has no such list. Rigs and cards are fields between tabs here, see
# app/heartcode/api/endpoints/fleet.py.
check_cards() {
    local rigs total up bad first advice
    request '/fleet?format=text'
    if [[ $curl_exit -eq 0 && $status = 404 && -z $json ]]; then
        return 0
    fi
    count=$((count + 1))
    answered || return 0
    if [[ $content_type != text/plain* ]] || ! read_cards; then
        fail "the list of rigs and cards cannot be read" "Is a HeartCode gateway or rig at $url?"
        return 0
    fi
    if [[ $up -eq 0 ]]; then
        fail "none of $total cards serves${first:+: $first}" "$advice"
    elif [[ $bad -gt 0 ]]; then
        warn "$up of $total cards serve: $first$(and_more)" "$advice"
    else
        pass "all $total cards of $rigs serve"
    fi
    print_cards
}

and_more() {
    [[ $bad -lt 2 ]] || printf ', and %d more' $((bad - 1))
}

# Fills the columns with what `request` has brought; sets rigs, total, up, bad, first and advice.
read_cards() {
    local rig rig_state number backend model state busy slots last='' rest
    column_rig=(Rig) column_card=(Card) column_backend=(Backend) column_model=(Model)
    column_state=(State) column_slots=('In use')
    rigs=0 total=0 up=0 bad=0 first='' advice=''
    while IFS=$'\t' read -r rig rig_state number backend model state busy slots rest; do
        [[ $slots =~ ^([0-9]+|-)$ && -z $rest ]] || return 1
        [[ $rig = "$last" ]] || rigs=$((rigs + 1))
        last=$rig
        # A rig that tells of no card has lost all of them; one that drains gets no requests.
        [[ $number = - ]] || total=$((total + 1))
        if [[ $number = - || $rig_state = draining ]]; then
            state=$rig_state
        fi
        if [[ $state = up ]]; then
            up=$((up + 1))
        else
            bad=$((bad + 1))
            [[ -n $first ]] || describe_fault
        fi
        column_rig+=("$(printable "$rig")")
        column_card+=("$(printable "$number")")
        column_backend+=("$(printable "$backend")")
        column_model+=("$(printable "$model")")
        column_state+=("$(printable "$state")")
        [[ $slots = - ]] || slots="$busy of $slots"
        column_slots+=("$(printable "$slots")")
    done <"$body.clean"
    [[ $rigs -eq 1 ]] && rigs='1 rig' || rigs="$rigs rigs"
    [[ ${#column_rig[@]} -gt 1 ]]
}

describe_fault() {
    first="card $number of $rig is $state"
    advice="On $rig: systemctl status heartcode-llama@$number"
    case $state in
    unreachable) first="$rig is $state" advice="Has $rig power and network? On it: systemctl status heartcode" ;;
    unknown) first="$rig does not tell of its cards" advice="Deploy to it, its proxy may be older: ansible-playbook playbooks/site.yml" ;;
    draining) first="$rig is $state" advice="To end that, on $rig: rm /run/heartcode/draining" ;;
    gone) advice="On $rig: cat /run/heartcode/llama/$number.quarantined; nvidia-smi" ;;
    esac
    advice=$(printable "$advice")
}

# widest TEXT...: the length of the longest one.
widest() {
    local text longest=0
    for text in "$@"; do
        [[ ${#text} -le $longest ]] || longest=${#text}
    done
    printf '%d' "$longest"
}

print_cards() {
    local row colour rig card backend model state
    rig=$(widest "${column_rig[@]}") card=$(widest "${column_card[@]}") state=$(widest "${column_state[@]}")
    backend=$(widest "${column_backend[@]}") model=$(widest "${column_model[@]}")
    printf '\n'
    for row in "${!column_rig[@]}"; do
        colour=$red
        [[ ${column_state[row]} != up ]] || colour=$green
        [[ $row -gt 0 ]] || colour=''
        printf '%-*s  %-*s  %-*s  %-*s  %s%-*s%s  %s\n' "$rig" "${column_rig[row]}" "$card" "${column_card[row]}" \
            "$backend" "${column_backend[row]}" "$model" "${column_model[row]}" \
            "$colour" "$state" "${column_state[row]}" "${colour:+$plain}" "${column_slots[row]}"
    done
    printf '\n'
}

# The list as the server says it, which may be another one a moment later.
print_json() {
    request /fleet
    if [[ $curl_exit -eq 0 && $status = 200 ]]; then
        cat "$body" >&3
    fi
}

question() {
    printf '{%s%s,"stream":%s}' "${model:+\"model\":$model,}" "$QUESTION" "$1"
}

main() {
    require_programs
    parse_arguments "$@"
    directory=$(mktemp -d)
    trap 'rm -rf "$directory"' EXIT
    body=$directory/body
    failed=0 degraded='' count=4 model=''
    # The report is for people.
    exec 3>&1
    [[ -z $json ]] || exec 1>&2
    set_colours

    printf 'Checking %s\n' "$url"
    for check in health models completion stream cards; do
        "check_$check"
        if [[ $check = health && $status = 000 ]]; then
            printf 'The other checks are left out: nothing answers there.\n'
            break
        fi
    done

    [[ -z $json || $status = 000 ]] || print_json
    if [[ $failed -gt 0 ]]; then
        printf '%d of %d checks failed.\n' "$failed" "$count"
        exit 1
    elif [[ -n $degraded ]]; then
        printf 'It serves, but with less than it has.\n'
        exit 3
    fi
    printf 'All %d checks passed.\n' "$count"
}

main "$@"
