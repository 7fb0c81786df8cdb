"""One long run through many random faults, judged from outside: the run's journal, its losses file, and Slurm.

`plan`: what is drawn from a seed, and what each kind of fault should lead to; `run`: does it; `judge`: what it led to;
`report`: what was measured.
"""
