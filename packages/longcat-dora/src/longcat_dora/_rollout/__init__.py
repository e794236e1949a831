"""Where trajectories are sampled.

Sessions, controllers, and what they and the manager tell each other.
"""
