"""Attacks on federated learning: `catalogue` lists them, `attack` joins their parts, docs/attacks.md describes them."""
