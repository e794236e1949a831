"""What `longcat_moe.server` is made of: one file a route, and what the routes share."""
