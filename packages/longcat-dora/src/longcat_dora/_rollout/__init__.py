"""Where trajectories are sampled: sessions, controllers, and what they and the manager tell each other."""
