"""Where it runs: on this machine, and on AWS."""
