"""What runs: the loop, processes, weights on their way, replicas."""
