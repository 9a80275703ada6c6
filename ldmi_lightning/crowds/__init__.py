"""Several people's labels of each sample: votes, what they come to, and what they tell of each annotator."""

from ldmi_lightning.crowds.aggregate import Aggregate, agreement, dawid_skene, majority_vote
from ldmi_lightning.crowds.votes import VoteTable, votes_array

__all__ = ["Aggregate", "VoteTable", "agreement", "dawid_skene", "majority_vote", "votes_array"]
