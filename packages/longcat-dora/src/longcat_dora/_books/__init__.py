"""What a run knows of its trajectories: the scheduler, the manager, recovery.

No processes, no clocks of its own.
"""
