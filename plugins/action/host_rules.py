"""What must hold before a host is changed: many assertions in one task (docs/adr/0023)."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

#: What a rule consists of; those with True it must have.
_PARTS = {"rule": True, "that": True, "fail_msg": True, "when": False, "vars": False}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """Evaluate one rule after the other, and fail with the message of the first that is broken.

    rules: a list of what follows.
        rule: What is so, as a sentence.
        that: One condition or several, as the module assert has them.
        fail_msg: What to say where one does not hold. It is rendered only then.
        when: One condition or several under which the rule is one.
        vars: Variables of this rule; rendered where they are used.

    A later rule may count on what an earlier one says.
    """

    _requires_connection = False
    _supports_check_mode = True

    @classmethod
    def finalize_task_arg(cls, name: str, value: Any, templar: Any, context: Any) -> Any:
        """Leave the rules as they are written: each is rendered when its turn comes."""
        if name == "rules":
            return value
        return super().finalize_task_arg(name, value, templar, context)

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result; `rule` and `assertion` name what is broken."""
        super().run(tmp, task_vars)
        rules = self._task.args.get("rules")
        if not isinstance(rules, list) or set(self._task.args) != {"rules"}:
            raise AnsibleActionFail("host_rules takes rules, a list of what must hold")
        for rule in rules:
            _check(rule)
        for rule in rules:
            templar = self._templar.copy_with_new_env(
                available_variables=(task_vars or {}) | rule.get("vars", {})
            )
            if not all(map(templar.evaluate_conditional, _several(rule.get("when", [])))):
                continue
            for condition in _several(rule["that"]):
                if not templar.evaluate_conditional(condition):
                    return {
                        "changed": False,
                        "failed": True,
                        "rule": rule["rule"],
                        "assertion": condition,
                        "msg": templar.template(rule["fail_msg"]),
                    }
        return {"changed": False, "msg": "All of it holds"}


def _several(conditions: Any) -> list[Any]:
    return conditions if isinstance(conditions, list) else [conditions]


def _check(rule: Any) -> None:
    if not isinstance(rule, dict) or not _PARTS.keys() >= rule.keys():
        raise AnsibleActionFail(f"host_rules: a rule has {', '.join(_PARTS)}; this one is {rule}")
    missing = [part for part, is_needed in _PARTS.items() if is_needed and part not in rule]
    if missing:
        raise AnsibleActionFail(f"host_rules: {rule} lacks {', '.join(missing)}")
