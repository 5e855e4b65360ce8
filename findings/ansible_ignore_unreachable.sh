#!/usr/bin/env bash
# ansible-core: a play with any_errors_fatal ends at a host that cannot be reached, also where the task says
# ignore_unreachable.
#
# Expected: the host's failure is ignored, as the output says ("...ignoring"), and the play goes on.
# Seen: it does without any_errors_fatal; with it no further task of the play runs on any host. playbooks/site.yml asks
# whether all hosts answer in a play of its own for that reason.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install --quiet --disable-pip-version-check ansible-core==2.19.14
"$here/venv/bin/pip" show ansible-core 2>/dev/null | sed -n "s/^Version: /ansible-core /p"

touch "$here/ansible.cfg"
# Nobody listens on port 1 of the loopback interface.
cat >"$here/inventory.yml" <<'END'
all:
  hosts:
    here: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
    silent: {ansible_host: 127.0.0.1, ansible_port: 1}
END

further_tasks() {
    cat >"$here/play.yml" <<END
- hosts: all
  gather_facts: false
  any_errors_fatal: $1
  tasks:
    - ansible.builtin.ping:
      ignore_unreachable: true
    - ansible.builtin.debug: {msg: a further task runs}
END
    (ANSIBLE_CONFIG=$here/ansible.cfg "$here/venv/bin/ansible-playbook" -i "$here/inventory.yml" "$here/play.yml" 2>&1 || true) |
        grep -c 'a further task runs' || true
}

without=$(further_tasks false) with=$(further_tasks true)
echo "expected: the further task runs on 2 hosts without any_errors_fatal, and on 2 with it"
echo "seen: on $without without, on $with with it"
[[ $without == 2 && $with == 0 ]]
