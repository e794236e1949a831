"""What a run writes down, and what reads it: events, payloads, the checker, the replayer."""
