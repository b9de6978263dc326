"""Privacy attacks on what parties see, and audits of trainers that should be private."""
