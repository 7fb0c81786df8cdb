"""The supervisor of a run, on its batch host, with the user's rights: start, follow, judge the end, bring back."""
