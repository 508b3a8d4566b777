"""Policies propose a split; the guard disposes."""

from analysis.policy.closed_form import BudgetPolicy, FixedPolicy
from analysis.policy.learned import LearnedPolicy, QTable, load_table
from analysis.policy.protocol import Policy, PolicyView, Proposal

__all__ = ["BudgetPolicy", "FixedPolicy", "LearnedPolicy", "Policy", "PolicyView", "Proposal", "QTable", "load_table"]
