"""Policies propose a split; the guard disposes."""

from analysis.failure.facts import PRIOR_RISK
from analysis.policy.closed_form import BudgetPolicy, FixedPolicy, WholeCapPolicy
from analysis.policy.learned import LearnedPolicy, QValues, load_values
from analysis.policy.protocol import Arm, Policy, PolicyView, Proposal
from analysis.policy.thompson import ThompsonPolicy

__all__ = [
    "PRIOR_RISK", "Arm", "BudgetPolicy", "FixedPolicy", "LearnedPolicy", "Policy", "PolicyView", "Proposal", "QValues",
    "ThompsonPolicy", "WholeCapPolicy", "load_values",
]  # fmt: skip
